/* The device node: open files and the dispatch of their ioctls. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <string.h>
#include <unistd.h>

#include "bo.h"
#include "command.h"
#include "context.h"
#include "driver.h"
#include "info.h"
#include "log.h"

static struct client *clients;
static pid_t forked; /* this process, if it came from fork() */
static atomic_uint n_clients; /* lets every other close() and ioctl() of the process pass quickly */

struct client *client_find(int descriptor)
{
	if (!n_clients)
		return NULL;
	pthread_mutex_lock(&driver_lock);
	struct client *client = clients;
	while (client && client->descriptor != descriptor)
		client = client->next;
	pthread_mutex_unlock(&driver_lock);
	return client;
}

struct client *client_open(int descriptor)
{
	struct client *client = calloc(1, sizeof(*client));
	if (!client)
		return NULL;
	client->descriptor = descriptor;
	client->pid = getpid();
	pthread_mutex_lock(&driver_lock);
	client->next = clients;
	clients = client;
	n_clients++;
	pthread_mutex_unlock(&driver_lock);
	return client;
}

void client_close(int descriptor)
{
	struct client *client = client_find(descriptor);
	/* The child of a vfork(), as Python's subprocess makes it, still has its parent's memory. */
	if (!client || (client->pid != getpid() && forked != getpid()))
		return;
	trace("close %d", descriptor);
	pthread_mutex_lock(&driver_lock);
	struct client **link = &clients;
	while (*link != client)
		link = &(*link)->next;
	*link = client->next;
	n_clients--;
	while (client->contexts)
		context_destroy(client, client->contexts->handle);
	bo_close_all(&client->bos);
	pthread_mutex_unlock(&driver_lock);
	free(client);
}

static int timeline_wait(struct client *client, const struct syncobj_timeline_wait *argument)
{
	if (argument->count != 1)
		return -EINVAL;
	uint32_t handle = *(const uint32_t *)(uintptr_t)argument->handles;
	uint64_t point = *(const uint64_t *)(uintptr_t)argument->points;
	struct context *context = client->contexts;
	while (context && context->syncobj != handle)
		context = context->next;
	if (!context)
		return -ENOENT;
	pthread_mutex_unlock(&driver_lock);
	int result = command_wait(&context->queue, point, argument->timeout_nsec);
	pthread_mutex_lock(&driver_lock);
	return result;
}

static int wait_cmd(struct client *client, const struct wait_cmd *argument)
{
	struct context *context = context_find(client, argument->hwctx);
	if (!context)
		return -EINVAL;
	int64_t deadline = INT64_MAX;
	if (argument->timeout_ms) {
		struct timespec time;
		clock_gettime(CLOCK_MONOTONIC, &time);
		deadline = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec + argument->timeout_ms * 1000000ll;
	}
	pthread_mutex_unlock(&driver_lock);
	int result = command_wait(&context->queue, argument->seq, deadline);
	pthread_mutex_lock(&driver_lock);
	return result;
}

static int dispatch(struct client *client, unsigned number, void *argument)
{
	switch (number) {
	case NR_CREATE_HWCTX:
		return context_create(client, argument);
	case NR_DESTROY_HWCTX:
		return context_destroy(client, ((struct destroy_hwctx *)argument)->handle);
	case NR_CONFIG_HWCTX:
		return context_configure(client, argument);
	case NR_CREATE_BO:
		return bo_create(&client->bos, argument);
	case NR_GET_BO_INFO:
		return bo_info(&client->bos, argument);
	case NR_SYNC_BO:
		return bo_sync(&client->bos, argument);
	case NR_GEM_CLOSE:
		return bo_close(&client->bos, ((struct gem_close *)argument)->handle);
	case NR_EXEC_CMD:
		return context_submit(client, argument);
	case NR_WAIT_CMD:
		return wait_cmd(client, argument);
	case NR_SYNCOBJ_TIMELINE_WAIT:
		return timeline_wait(client, argument);
	case NR_SYNCOBJ_CREATE:
		((struct syncobj_create *)argument)->handle = ++client->last_syncobj;
		return 0;
	case NR_SYNCOBJ_DESTROY:
		return 0;
	case NR_GET_INFO:
		return info_get(client, argument);
	case NR_GET_ARRAY:
		return info_array(argument);
	case NR_SET_STATE:
		return 0;
	default:
		return -ENOTTY;
	}
}

/* What of an ioctl is worth a line in the trace. */
static void trace_ioctl(unsigned number, const void *argument, int result)
{
	const struct create_bo *bo = argument;
	const struct sync_bo *sync = argument;
	const struct get_info *info = argument;
	const struct exec_cmd *exec = argument;
	const struct create_hwctx *context = argument;
	const uint32_t *words = argument;
	switch (number) {
	case NR_CREATE_BO:
		trace("CREATE_BO type %u size %llu = %d, bo %u", bo->type, (unsigned long long)bo->size, result, bo->handle);
		break;
	case NR_SYNC_BO:
		trace("SYNC_BO bo %u %s %llu + %llu = %d", sync->handle, sync->direction ? "from device" : "to device",
		      (unsigned long long)sync->offset, (unsigned long long)sync->size, result);
		break;
	case NR_GET_INFO:
	case NR_GET_ARRAY:
		trace("%s %u, %u bytes = %d", number == NR_GET_INFO ? "GET_INFO" : "GET_ARRAY", info->param,
		      info->buffer_size, result);
		break;
	case NR_EXEC_CMD:
		trace("EXEC_CMD context %u packet bo %llu, %u arguments = %d, seq %llu", exec->hwctx,
		      (unsigned long long)exec->cmd_handles, exec->arg_count, result, (unsigned long long)exec->seq);
		break;
	case NR_CREATE_HWCTX:
		trace("CREATE_HWCTX tiles %u = %d, context %u", context->num_tiles, result, context->handle);
		break;
	case NR_GET_BO_INFO:
		trace("GET_BO_INFO bo %u = %d", words[4], result);
		break;
	case NR_SYNCOBJ_TIMELINE_WAIT:
		trace("SYNCOBJ_TIMELINE_WAIT = %d", result);
		break;
	default: /* the handle comes first in all the others */
		trace("%s %u = %d",
		      number == NR_DESTROY_HWCTX  ? "DESTROY_HWCTX"
		      : number == NR_CONFIG_HWCTX ? "CONFIG_HWCTX"
		      : number == NR_GEM_CLOSE	  ? "GEM_CLOSE"
		      : number == NR_WAIT_CMD	  ? "WAIT_CMD"
		      : number == NR_SET_STATE	  ? "SET_STATE"
						  : "other ioctl",
		      words[0], result);
	}
}

int driver_ioctl(struct client *client, unsigned long request, void *argument)
{
	unsigned number = request & 0xff;
	bool closing = number == NR_GEM_CLOSE || number == NR_DESTROY_HWCTX || number == NR_SYNCOBJ_DESTROY;
	int result;

	counters.ioctls++;
	pthread_mutex_lock(&driver_lock);
	if ((request >> 8 & 0xff) != 'd')
		result = -ENOTTY;
	else if (device_lost && !closing)
		result = -ENODEV;
	else if (client->pid != getpid()) /* a forked child: contexts and memory are its parent's */
		result = closing ? 0 : -EINVAL;
	else
		result = dispatch(client, number, argument);
	pthread_mutex_unlock(&driver_lock);
	if (tracing())
		trace_ioctl(number, argument, result);
	return result;
}

static void lock_before_fork(void)
{
	pthread_mutex_lock(&driver_lock);
}

static void unlock_after_fork(void)
{
	pthread_mutex_unlock(&driver_lock);
}

static void note_child(void)
{
	forked = getpid();
	unlock_after_fork();
}

__attribute__((constructor(103))) static void prepare_fork(void)
{
	pthread_atfork(lock_before_fork, unlock_after_fork, note_child);
}
