/* Hardware contexts, and the clients that they belong to. */
#pragma once

#include <sys/types.h>

#include "bo.h"
#include "command.h"
#include "partition.h"

struct context {
	uint32_t handle, syncobj;
	struct client *client;
	struct partition partition;
	int heap_granule; /* of the driver's own command buffers */
	struct bo *pdi;
	struct queue queue;
	bool broken;
	struct context *next;
};

struct client { /* one open file of the device node */
	int descriptor;
	pid_t pid;
	struct bo_table bos;
	struct context *contexts;
	uint32_t last_context;
	uint32_t last_syncobj;
	struct client *next;
};

int context_create(struct client *client, struct create_hwctx *argument);
int context_configure(struct client *client, const struct config_hwctx *argument);
int context_submit(struct client *client, struct exec_cmd *argument);
int context_destroy(struct client *client, uint32_t handle);
struct context *context_find(struct client *client, uint32_t handle);
