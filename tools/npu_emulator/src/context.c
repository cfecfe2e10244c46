/* Hardware contexts: creation, configuration with a PDI, destruction. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "wne.h"

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

/* Signals stay with the threads of the program: Python wants SIGINT in its own. */
static int start_worker(struct context *context)
{
	sigset_t all, old;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int result = pthread_create(&context->worker, NULL, command_worker, context);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -result;
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
		pthread_cond_init(&context->work, NULL);
		result = start_worker(context);
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
	if (!pdi || pdi->type != BO_DEV || context->array)
		return -EINVAL;
	context->array = array_create(pdi, context->partition.columns);
	if (!context->array)
		return -EINVAL;
	pdi->references++;
	context->pdi = pdi;
	return 0;
}

/* Ends what runs, waits for the worker and frees everything. Called with driver_lock, which it releases
 * while it waits. */
static void destroy(struct context *context)
{
	struct client *client = context->client;
	struct context **link = &client->contexts;
	while (*link != context)
		link = &(*link)->next;
	*link = context->next;
	context->stopping = true;
	pthread_cond_broadcast(&context->work);
	if (client->pid == getpid()) { /* a forked child has no such thread */
		pthread_mutex_unlock(&driver_lock);
		pthread_join(context->worker, NULL);
		pthread_mutex_lock(&driver_lock);
	}
	if (context->pdi)
		bo_put(context->pdi, &client->bos);
	heap_give(&client->bos, (unsigned)context->heap_granule, CONTEXT_GRANULES);
	partition_release(&context->partition);
	array_free(context->array);
	pthread_cond_destroy(&context->work);
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
