/* Messages, the trace and the counters. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "uapi.h"

struct counters {
	atomic_llong live[BO_CMD + 1], live_bytes[BO_CMD + 1], created; /* by bo type */
	atomic_llong peak_bytes, heap_used;
	atomic_llong contexts, contexts_created;
	atomic_llong launches, completed, failed;
	atomic_llong sync_calls, to_device_bytes, from_device_bytes;
	atomic_llong dma_read_bytes, dma_written_bytes;
	atomic_llong ioctls;
};

extern struct counters counters;

/* The files of the trace and of the counters at exit; "-" is stderr, NULL none. */
void log_open(const char *trace_file, const char *counters_file);
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool tracing(void);
int counters_text(char *text, size_t size); /* JSON */
void counters_write(void);                  /* to the file that log_open() was given */
