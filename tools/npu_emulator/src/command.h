/* Commands of one context: a queue, and a thread that carries them out in order. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>

#include "bo.h"

struct array_state;
struct command;

#define QUEUE_DEPTH 4

struct queue {
	uint32_t context; /* handle, for the trace */
	struct bo_table *bos;
	struct array_state *array; /* NULL until the context is configured */
	bool stopping;
	uint64_t submitted;
	_Atomic uint32_t finished; /* futex: number of commands done */
	struct command *head, *tail;
	pthread_cond_t work;
	pthread_t worker;
};

extern atomic_bool device_lost; /* a fault that was asked for: nothing reaches the device any more */

int queue_start(struct queue *queue, struct bo_table *bos); /* 0 or -errno */
/* Ends what runs and waits for the thread, for which it releases driver_lock. A forked child has no such
 * thread to wait for. */
void queue_stop(struct queue *queue, bool forked);
int command_submit(struct queue *queue, struct exec_cmd *argument);
/* Waits until the command seq is done. deadline: absolute CLOCK_MONOTONIC ns, INT64_MAX for ever. */
int command_wait(struct queue *queue, uint64_t seq, int64_t deadline);
