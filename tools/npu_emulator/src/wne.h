/* Shared declarations of the emulated amdxdna driver. See ../README.md for what it does. */
#ifndef WNE_H
#define WNE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "uapi.h"

/* ---- options.c: what the environment asks for ---- */

enum presence { PRESENT, NO_DEVICE, NO_DRIVER, NO_PERMISSION };
enum fault_kind { FAULT_NONE, FAULT_ERROR, FAULT_ABORT, FAULT_TIMEOUT, FAULT_HANG, FAULT_ENODEV };

struct fault {
	uint64_t first, last; /* launches of this process, counted from 1 */
	enum fault_kind kind;
};

struct options {
	enum presence presence;
	bool strict;          /* device memory is a separate copy */
	bool syncobj;         /* contexts have a syncobj; otherwise WAIT_CMD is used */
	bool fill_failed;     /* a failed packet's payload becomes 0xff */
	bool evict_breaks;    /* destroying one context breaks the others of the process */
	uint64_t memlock_bytes; /* RLIMIT_MEMLOCK, for root too; UINT64_MAX: none */
	unsigned contexts;    /* at most so many, over all processes */
	int context_errno;    /* for one too many */
	unsigned columns, first_column;
	uint64_t heap_bytes;  /* what buffers may take of the heap */
	int heap_errno;       /* when it is full */
	unsigned latency_us;  /* of a launch */
	unsigned tdr_ms;      /* a hung command ends after so long; 0: never */
	struct fault faults[16];
	unsigned n_faults;
	const char *home;     /* folder of the fake sysfs */
	const char *device;   /* file shared by the processes that use one device */
	const char *pci_address, *pci_id, *revision, *vbnv, *firmware, *driver_version;
	const char *trace, *stats;
};

extern struct options options;

enum fault_kind fault_of_launch(uint64_t launch);

/* ---- log.c: messages, trace, counters ---- */

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

void log_open(void);
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool tracing(void);
int counters_text(char *text, size_t size); /* JSON */
void counters_write(void);                  /* to where the options say */

/* ---- sysfs.c, redirect.c: the files of the device ---- */

#define NODE "/dev/accel/accel0"
#define COUNTERS_FILE "/sys/module/amdxdna/emulator/counters"

const char *sysfs_root(void); /* folder that holds the fake /sys and /dev */
/* The path to use instead of path: path itself, or one in the fake tree, in buffer. */
const char *redirected(const char *path, char *buffer, size_t size);

/* ---- bo.c: buffer objects ---- */

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

/* ---- partition.c: columns and contexts of the device, shared by all processes ---- */

struct partition {
	int slot, descriptor; /* the lock on byte slot of the device file is the context */
	unsigned first_column, columns;
};

int partition_take(struct partition *partition, unsigned columns); /* 0 or -errno */
void partition_release(struct partition *partition);

/* ---- context.c, command.c: contexts and what runs in them ---- */

struct client;
struct array_state;

struct command {
	struct bo *packet;
	struct bo **arguments;
	unsigned n_arguments;
	uint64_t seq;
	struct command *next;
};

#define QUEUE_DEPTH 4

struct context {
	uint32_t handle, syncobj;
	struct client *client;
	struct partition partition;
	int heap_granule; /* of the driver's own command buffers */
	struct bo *pdi;
	struct array_state *array;
	bool broken, stopping;
	uint64_t submitted;
	_Atomic uint32_t finished; /* futex: number of commands done */
	struct command *head, *tail;
	pthread_cond_t work;
	pthread_t worker;
	struct context *next;
};

struct client {
	int descriptor;
	pid_t pid;
	struct bo_table bos;
	struct context *contexts;
	uint32_t last_context;
	uint32_t last_syncobj;
	struct client *next;
};

extern pthread_mutex_t driver_lock; /* over clients, contexts, buffer tables and queues */
extern atomic_bool device_lost;

int context_create(struct client *client, struct create_hwctx *argument);
int context_configure(struct client *client, const struct config_hwctx *argument);
int context_destroy(struct client *client, uint32_t handle);
struct context *context_find(struct client *client, uint32_t handle);
int command_submit(struct client *client, struct exec_cmd *argument);
/* Waits until the command seq is done. deadline: absolute CLOCK_MONOTONIC ns, INT64_MAX for ever. */
int command_wait(struct context *context, uint64_t seq, int64_t deadline);
void command_free(struct command *command, struct bo_table *table);
void *command_worker(void *context);

/* ---- driver.c, info.c: ioctl entry ---- */

struct client *client_find(int descriptor);
struct client *client_open(int descriptor);
void client_close(int descriptor);
int driver_ioctl(struct client *client, unsigned long request, void *argument);
int info_get(struct client *client, const struct get_info *argument);
int info_array(struct client *client, struct get_array *argument);

/* ---- stream.c, shim_dma.c, core.c: the array, and one launch on it ---- */

struct launch_memory { /* one buffer argument as the device sees it */
	struct bo *bo;
	uint64_t offset;
};

#define MAX_BO_ARGUMENTS 8

struct launch {
	const uint32_t *words; /* the transaction, device copy */
	uint64_t n_words;
	struct launch_memory arguments[MAX_BO_ARGUMENTS];
	unsigned n_arguments;
};

struct array_state *array_create(const struct bo *pdi, unsigned columns);
void array_free(struct array_state *array);
/* STATE_COMPLETED, STATE_ERROR or STATE_TIMEOUT (a stream that hardware would hang on). */
enum packet_state array_launch(struct array_state *array, const struct launch *launch);

#endif
