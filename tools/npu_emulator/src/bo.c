/* Buffer objects. Their memory is shared anonymous memory; a process's mapping is a second mapping of the
 * same pages. In strict mode the device has its own copy, and only SYNC_BO moves data between the two. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bo.h"
#include "log.h"
#include "options.h"

#define PAGE 4096ull
#define ROUND_UP(value, unit) (((value) + (unit)-1) / (unit) * (unit))

/* What device memory holds before anything was synced: neither zero nor what the host wrote. */
#define STALE 0xa5

pthread_mutex_t driver_lock = PTHREAD_MUTEX_INITIALIZER;

static uint64_t next_map_offset = 1ull << 32;

static uint8_t *map_pages(uint64_t size, int sharing)
{
	void *pages = (void *)syscall(SYS_mmap, NULL, size, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
	return pages == MAP_FAILED ? NULL : pages;
}

static int take_handle(struct bo_table *table, struct bo *bo)
{
	unsigned i = 0;
	while (i < table->n_slots && table->slots[i])
		i++;
	if (i == table->n_slots) {
		unsigned n = table->n_slots ? 2 * table->n_slots : 64;
		struct bo **slots = realloc(table->slots, n * sizeof(*slots));
		if (!slots)
			return -ENOMEM;
		memset(slots + table->n_slots, 0, (n - table->n_slots) * sizeof(*slots));
		table->slots = slots;
		table->n_slots = n;
	}
	table->slots[i] = bo;
	bo->handle = i + 1;
	return 0;
}

static void count(const struct bo *bo, int sign)
{
	counters.live[bo->type] += sign;
	counters.live_bytes[bo->type] += sign * (long long)bo->size;
	if (sign > 0) {
		long long bytes = 0;
		counters.created++;
		for (int type = BO_SHARE; type <= BO_CMD; type++)
			bytes += counters.live_bytes[type];
		if (bytes > counters.peak_bytes)
			counters.peak_bytes = bytes;
	}
}

/* A run of free granules of the heap: index of the first, or -errno. */
int heap_take(struct bo_table *table, unsigned n_granules)
{
	unsigned usable = (unsigned)(options.heap_bytes / HEAP_GRANULE), run = 0;
	if (!table->heap)
		return -EINVAL;
	if (usable > table->n_granules)
		usable = table->n_granules;
	for (unsigned i = 0; i < usable; i++) {
		run = table->granules[i] ? 0 : run + 1;
		if (run == n_granules) {
			unsigned first = i + 1 - n_granules;
			memset(table->granules + first, 1, n_granules);
			counters.heap_used += n_granules * HEAP_GRANULE;
			return (int)first;
		}
	}
	return -options.heap_errno;
}

void heap_give(struct bo_table *table, unsigned first, unsigned n_granules)
{
	memset(table->granules + first, 0, n_granules);
	counters.heap_used -= n_granules * HEAP_GRANULE;
}

static unsigned granules_of(const struct bo *bo)
{
	return (unsigned)(ROUND_UP(bo->size, HEAP_GRANULE) / HEAP_GRANULE);
}

static int place_in_heap(struct bo_table *table, struct bo *bo)
{
	int first = heap_take(table, granules_of(bo));
	if (first < 0)
		return first;
	uint64_t offset = (uint64_t)first * HEAP_GRANULE;
	bo->heap = table->heap;
	bo->heap->references++;
	bo->host = bo->heap->host + offset;
	bo->device = bo->heap->device + offset;
	bo->address = HEAP_ADDRESS + offset;
	/* The heap is reused without clearing; in strict mode the device's side must not look valid. */
	if (options.strict)
		memset(bo->device, STALE, bo->size);
	return 0;
}

static int place_alone(struct bo_table *table, struct bo *bo)
{
	if (bo->type == BO_DEV_HEAP && table->heap)
		return -ENOSPC; /* npu1 has one heap */
	bo->mapped = ROUND_UP(bo->size, PAGE);
	bo->host = bo->device = map_pages(bo->mapped, MAP_SHARED);
	if (!bo->host)
		return -ENOMEM;
	/* Command packets are read by the driver on the CPU: never a separate copy. */
	if (options.strict && bo->type != BO_CMD) {
		bo->device = map_pages(bo->mapped, MAP_PRIVATE);
		if (!bo->device) {
			munmap(bo->host, bo->mapped);
			return -ENOMEM;
		}
		if (bo->type == BO_SHARE)
			memset(bo->device, STALE, bo->size);
	}
	bo->map_offset = next_map_offset;
	next_map_offset += ROUND_UP(bo->size, 1ull << 32);
	if (bo->type != BO_DEV_HEAP)
		return 0;
	table->n_granules = (unsigned)(bo->size / HEAP_GRANULE);
	table->granules = calloc(table->n_granules, 1);
	if (!table->granules) {
		munmap(bo->host, bo->mapped);
		return -ENOMEM;
	}
	bo->address = HEAP_ADDRESS;
	table->heap = bo;
	return 0;
}

int bo_create(struct bo_table *table, struct create_bo *argument)
{
	if (argument->type < BO_SHARE || argument->type > BO_CMD || argument->size == 0 ||
	    argument->size > 1ull << 40 || argument->flags != 0 || argument->vaddr != 0)
		return -EINVAL;
	struct bo *bo = calloc(1, sizeof(*bo));
	if (!bo)
		return -ENOMEM;
	bo->type = (enum bo_type)argument->type;
	bo->size = argument->size;
	bo->references = 1;
	int result = bo->type == BO_DEV ? place_in_heap(table, bo) : place_alone(table, bo);
	if (result < 0) {
		free(bo);
		return result;
	}
	count(bo, 1);
	result = take_handle(table, bo);
	if (result < 0) {
		bo_put(bo, table);
		return result;
	}
	argument->handle = bo->handle;
	return 0;
}

struct bo *bo_find(struct bo_table *table, uint32_t handle)
{
	return handle && handle <= table->n_slots ? table->slots[handle - 1] : NULL;
}

int bo_info(struct bo_table *table, struct get_bo_info *argument)
{
	const struct bo *bo = bo_find(table, argument->handle);
	if (!bo)
		return -ENOENT;
	argument->map_offset = bo->type == BO_DEV ? NO_ADDRESS : bo->map_offset;
	argument->vaddr = 0;
	argument->xdna_addr = bo->type == BO_DEV || bo->type == BO_DEV_HEAP ? bo->address : NO_ADDRESS;
	return 0;
}

int bo_sync(struct bo_table *table, const struct sync_bo *argument)
{
	struct bo *bo = bo_find(table, argument->handle);
	if (!bo)
		return -ENOENT;
	if (argument->direction > 1 || argument->offset > bo->size || argument->size > bo->size - argument->offset)
		return -EINVAL;
	counters.sync_calls++;
	*(argument->direction ? &counters.from_device_bytes : &counters.to_device_bytes) += (long long)argument->size;
	if (bo->device == bo->host)
		return 0;
	uint8_t *host = bo->host + argument->offset, *device = bo->device + argument->offset;
	if (argument->direction == 0)
		memcpy(device, host, argument->size);
	else
		memcpy(host, device, argument->size);
	return 0;
}

/* Drops one reference; the handle's own goes with bo_close(). */
void bo_put(struct bo *bo, struct bo_table *table)
{
	if (--bo->references)
		return;
	count(bo, -1);
	if (bo->heap) {
		heap_give(table, (unsigned)((bo->address - HEAP_ADDRESS) / HEAP_GRANULE), granules_of(bo));
		bo_put(bo->heap, table);
	} else {
		if (bo->device != bo->host)
			munmap(bo->device, bo->mapped);
		munmap(bo->host, bo->mapped);
	}
	if (bo == table->heap) {
		table->heap = NULL;
		free(table->granules);
		table->granules = NULL;
	}
	free(bo);
}

int bo_close(struct bo_table *table, uint32_t handle)
{
	struct bo *bo = bo_find(table, handle);
	if (!bo)
		return -EINVAL;
	table->slots[handle - 1] = NULL;
	bo_put(bo, table);
	return 0;
}

void bo_close_all(struct bo_table *table)
{
	/* The heap last: the others lie in it. */
	for (unsigned i = 0; i < table->n_slots; i++)
		if (table->slots[i] && table->slots[i] != table->heap)
			bo_close(table, i + 1);
	if (table->heap)
		bo_close(table, table->heap->handle);
	free(table->slots);
	memset(table, 0, sizeof(*table));
}

static bool over_memlock(struct bo_table *table, uint64_t more)
{
	uint64_t locked = more;
	for (unsigned i = 0; i < table->n_slots; i++)
		if (table->slots[i] && table->slots[i]->mapped && table->slots[i]->address)
			locked += table->slots[i]->mapped;
	return locked > options.memlock_bytes;
}

/* The process maps a buffer over addresses that the shim reserved. Returns the address or -errno. */
void *bo_mmap(struct bo_table *table, void *address, size_t length, int flags, uint64_t offset)
{
	struct bo *bo = NULL;
	for (unsigned i = 0; i < table->n_slots && !bo; i++)
		if (table->slots[i] && table->slots[i]->mapped && table->slots[i]->map_offset == offset)
			bo = table->slots[i];
	if (!bo || !(flags & MAP_SHARED) || ROUND_UP(length, PAGE) > bo->mapped)
		return (void *)(intptr_t)-EINVAL;
	if ((flags & MAP_LOCKED) && over_memlock(table, bo->address ? 0 : bo->mapped))
		return (void *)(intptr_t)-EAGAIN;
	/* An old size of 0 makes a second mapping of shared pages instead of moving them. */
	void *result = flags & MAP_FIXED
			       ? mremap(bo->host, 0, ROUND_UP(length, PAGE), MREMAP_MAYMOVE | MREMAP_FIXED, address)
			       : mremap(bo->host, 0, ROUND_UP(length, PAGE), MREMAP_MAYMOVE);
	if (result == MAP_FAILED)
		return (void *)(intptr_t)-errno;
	if (bo->type != BO_DEV_HEAP)
		bo->address = (uint64_t)(uintptr_t)result;
	trace("mmap bo %u at %p, %zu bytes", bo->handle, result, length);
	return result;
}
