/* Hardware contexts: creation, configuration with a PDI, destruction. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bo.h"
#include "command.h"
#include "context.h"
#include "log.h"
#include "options.h"
#include "partition.h"
#include "stream.h"

#define CORE_ROWS 4

/* The driver keeps this many command buffers of one granule each for a context. */
#define CONTEXT_GRANULES 4

struct context *context_find(struct client *client, uint32_t handle)
{
	struct context *context = client->contexts;
	while (context && context->handle != handle)
		context = context->next;
	return context;
}

int context_create(struct client *client, struct create_hwctx *argument)
{
	if (argument->num_tiles == 0 || argument->num_tiles % CORE_ROWS != 0)
		return -EINVAL;
	struct context *context = calloc(1, sizeof(*context));
	if (!context)
		return -ENOMEM;
	context->heap_granule = heap_take(&client->bos, CONTEXT_GRANULES);
	if (context->heap_granule < 0) {
		int result = context->heap_granule;
		free(context);
		return result;
	}
	int result = partition_take(&context->partition, argument->num_tiles / CORE_ROWS);
	if (result == 0) {
		context->client = client;
		result = queue_start(&context->queue, &client->bos);
		if (result < 0)
			partition_release(&context->partition);
	}
	if (result < 0) {
		heap_give(&client->bos, (unsigned)context->heap_granule, CONTEXT_GRANULES);
		free(context);
		return result;
	}
	do /* cyclic, so that an old handle is not soon mistaken for a new one */
		context->handle = ++client->last_context % 256;
	while (context->handle == 0 || context_find(client, context->handle));
	if (options.syncobj)
		context->syncobj = ++client->last_syncobj;
	context->next = client->contexts;
	client->contexts = context;
	counters.contexts++;
	counters.contexts_created++;
	argument->handle = context->handle;
	argument->syncobj_handle = context->syncobj;
	argument->umq_doorbell = 0;
	return 0;
}

int context_configure(struct client *client, const struct config_hwctx *argument)
{
	struct context *context = context_find(client, argument->handle);
	const struct config_cu *configuration = (const struct config_cu *)(uintptr_t)argument->param_val;
	if (!context)
		return -ENOENT;
	if (argument->param_type != 0)
		return -EOPNOTSUPP;
	if (!configuration || argument->param_val_size < sizeof(*configuration) || configuration->num_cus != 1 ||
	    argument->param_val_size < sizeof(*configuration) + sizeof(configuration->cu[0]))
		return -EINVAL;
	struct bo *pdi = bo_find(&client->bos, configuration->cu[0].cu_bo);
	if (!pdi || pdi->type != BO_DEV || context->queue.array)
		return -EINVAL;
	context->queue.array = array_create(pdi, context->partition.columns);
	if (!context->queue.array)
		return -EINVAL;
	pdi->references++;
	context->pdi = pdi;
	return 0;
}

int context_submit(struct client *client, struct exec_cmd *argument)
{
	/* A context takes QUEUE_DEPTH commands; one more waits here. */
	for (;;) {
		struct context *context = context_find(client, argument->hwctx);
		if (!context || context->broken)
			return -ENOENT;
		if (!context->queue.array)
			return -EINVAL;
		if (context->queue.submitted - context->queue.finished < QUEUE_DEPTH)
			return command_submit(&context->queue, argument);
		uint64_t oldest = context->queue.finished;
		pthread_mutex_unlock(&driver_lock);
		int result = command_wait(&context->queue, oldest, INT64_MAX);
		pthread_mutex_lock(&driver_lock);
		if (result < 0)
			return result;
	}
}

/* Frees everything. Called with driver_lock, which it releases while the worker ends. */
static void destroy(struct context *context)
{
	struct client *client = context->client;
	struct context **link = &client->contexts;
	while (*link != context)
		link = &(*link)->next;
	*link = context->next;
	queue_stop(&context->queue, client->pid != getpid());
	if (context->pdi)
		bo_put(context->pdi, &client->bos);
	heap_give(&client->bos, (unsigned)context->heap_granule, CONTEXT_GRANULES);
	partition_release(&context->partition);
	array_free(context->queue.array);
	free(context);
	counters.contexts--;
}

int context_destroy(struct client *client, uint32_t handle)
{
	struct context *context = context_find(client, handle);
	if (!context)
		return -EINVAL;
	destroy(context);
	if (options.evict_breaks)
		for (struct context *other = client->contexts; other; other = other->next)
			other->broken = true;
	return 0;
}
