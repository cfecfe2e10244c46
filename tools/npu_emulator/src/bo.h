/* Buffer objects. */
#pragma once

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "uapi.h"

struct bo {
	uint32_t handle;
	enum bo_type type;
	uint64_t size;       /* as asked for: the bound of every access */
	uint64_t map_offset; /* for mmap */
	uint64_t address;    /* device address; 0 until mapped */
	uint8_t *host;       /* the emulator's own mapping of what the process sees */
	uint8_t *device;     /* what the device sees: host, or a separate copy */
	uint64_t mapped;     /* bytes of own mappings, 0 for a buffer inside the heap */
	struct bo *heap;
	unsigned references;
};

struct bo_table {
	struct bo **slots; /* index: handle - 1 */
	unsigned n_slots;
	struct bo *heap;
	uint8_t *granules; /* of the heap: taken or not */
	unsigned n_granules;
};

/* Over buffer tables, and over the queues, contexts and clients that have to do with them. Whoever calls
 * the functions below holds it. */
extern pthread_mutex_t driver_lock;

int bo_create(struct bo_table *table, struct create_bo *argument);
struct bo *bo_find(struct bo_table *table, uint32_t handle);
int bo_info(struct bo_table *table, struct get_bo_info *argument);
int bo_sync(struct bo_table *table, const struct sync_bo *argument);
int bo_close(struct bo_table *table, uint32_t handle);
void bo_close_all(struct bo_table *table);
void bo_put(struct bo *bo, struct bo_table *table);
void *bo_mmap(struct bo_table *table, void *address, size_t length, int flags, uint64_t offset);
int heap_take(struct bo_table *table, unsigned n_granules); /* first granule, or -errno */
void heap_give(struct bo_table *table, unsigned first, unsigned n_granules);
