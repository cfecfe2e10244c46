/* The array of one context: shim DMA of each column and the core. Inner header of shim_dma.c, core.c and
 * stream.c; the meaning of the registers is in docs/instruction-streams.md. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "launch.h"

enum { N_BDS = 16, BD_WORDS = 8, TASK_QUEUE = 4, MAX_COLUMNS = 8 };
enum { S2MM = 0, MM2S = 1 };

struct descriptor {
	uint32_t words[BD_WORDS];
	bool patched;       /* has an address in this launch */
	unsigned argument;
	uint64_t offset;    /* bytes behind the argument's start */
};

struct task {
	unsigned first_bd;
	unsigned executions;
	bool token;
};

struct channel {
	uint32_t control;
	struct task queue[TASK_QUEUE]; /* queue[0] is under way */
	unsigned n_tasks;
	unsigned bd;        /* of the task under way */
	uint64_t word;      /* next one of that descriptor */
	unsigned tokens;
};

/* Data on the way between a DMA channel and the core: the core's two buffers. */
struct fifo {
	uint8_t *data;
	size_t size, count;
};

struct core {
	const struct tile_kernel *kernel;
	int32_t parameters[2]; /* K tiles per output tile, output tiles per launch */
	bool running;          /* has read its parameters */
	uint32_t n_k, n_tiles, k, tile;
	int8_t *a, *b;
	int32_t *c;
	struct fifo in[2], out;
};

struct column {
	struct descriptor bds[N_BDS];
	struct channel channels[2][2]; /* [direction][channel] */
};

struct array_state {
	unsigned n_columns;
	struct column columns[MAX_COLUMNS];
	struct core core; /* at column 0, row 2 */
	const struct launch *launch;
	bool failed, starved;
	char why[256];    /* of a core that cannot go on */
};

extern const char *const directions[]; /* names of S2MM and MM2S */

/* Says what is wrong and marks the launch as failed. Always false. */
bool refuse_stream(struct array_state *array, const char *format, ...) __attribute__((format(printf, 2, 3)));
