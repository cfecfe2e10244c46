/* The array of one context: shim DMA of each column and the core program. Inner header of stream.c,
 * shim_dma.c and core.c; the meaning of the registers is in docs/instruction-streams.md. */
#ifndef WNE_ARRAY_H
#define WNE_ARRAY_H

#include "wne.h"

enum { N_BDS = 16, BD_WORDS = 8, TASK_QUEUE = 4, MAX_COLUMNS = 8 };
enum { S2MM = 0, MM2S = 1 };

/* Tokens are sent to the packet id of the controller; under any other they are lost. */
#define CONTROLLER_ID 0xf

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

/* A core program that the emulator knows: GEMM tiles, computed by the kernels' own sources. */
struct tile_kernel {
	const char *name;
	uint32_t tm, tk, tn;
	void (*zero)(int32_t *c);
	void (*multiply)(const int8_t *a, const int8_t *b, int32_t *c);
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

/* Says what is wrong and marks the launch as failed. Always false. */
bool refuse_stream(struct array_state *array, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* shim_dma.c */
bool shim_write(struct array_state *array, unsigned column, uint32_t offset, uint32_t value, uint32_t mask);
bool shim_patch(struct array_state *array, unsigned column, uint32_t offset, unsigned argument, uint64_t plus);
bool shim_wait(struct array_state *array, unsigned column, unsigned direction, unsigned channel);
bool shim_finished(struct array_state *array);
/* Moves up to the fifo's room from memory into the input of the core. False: nothing to move. */
bool shim_feed(struct array_state *array, unsigned channel, struct fifo *fifo);
/* Moves what the core has given to memory. False: no task takes it. */
bool shim_drain(struct array_state *array, struct fifo *fifo);

/* core.c */
bool core_load(struct core *core, const uint8_t *pdi, uint64_t size);
void core_free(struct core *core);
void core_reset(struct core *core);
bool core_write(struct array_state *array, uint32_t offset, uint32_t value);
/* One product of tiles. False: the core waits for data or for room; array->why says for which. */
bool core_step(struct array_state *array);

#endif
