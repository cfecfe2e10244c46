/* Commands: submission, the thread that carries them out, completion and waiting. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bo.h"
#include "command.h"
#include "log.h"
#include "options.h"
#include "stream.h"

struct command {
	struct bo *packet;
	struct bo **arguments;
	unsigned n_arguments;
	uint32_t context; /* handle */
	uint64_t seq;
	struct command *next;
};

atomic_bool device_lost;

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* ---- waiting: a futex, because it ends with EINTR at a signal, as the driver's wait does ---- */

static int futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t deadline)
{
	struct timespec time = { deadline / 1000000000, deadline % 1000000000 };
	long result = syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, seen,
			      deadline == INT64_MAX ? NULL : &time, NULL, FUTEX_BITSET_MATCH_ANY);
	return result < 0 ? -errno : 0;
}

int command_wait(struct queue *queue, uint64_t seq, int64_t deadline)
{
	for (;;) {
		uint32_t finished = queue->finished;
		if (finished > seq)
			return 0;
		int result = futex_wait(&queue->finished, finished, deadline);
		if (result == -EINTR || result == -ETIMEDOUT)
			return result == -EINTR ? -EINTR : -ETIME;
	}
}

/* ---- submission ---- */

static void command_free(struct command *command, struct bo_table *table)
{
	bo_put(command->packet, table);
	for (unsigned i = 0; i < command->n_arguments; i++)
		bo_put(command->arguments[i], table);
	free(command->arguments);
	free(command);
}

static struct command *command_new(struct bo_table *table, const struct exec_cmd *argument, int *error)
{
	const uint32_t *handles = (const uint32_t *)(uintptr_t)argument->args;
	struct bo *packet = bo_find(table, (uint32_t)argument->cmd_handles);
	*error = -EINVAL;
	if (argument->type != 0 || argument->cmd_count != 1 || !packet || packet->type != BO_CMD)
		return NULL;
	*error = -ENOENT;
	for (uint32_t i = 0; i < argument->arg_count; i++)
		if (!bo_find(table, handles[i]))
			return NULL;
	struct command *command = calloc(1, sizeof(*command));
	if (command)
		command->arguments = calloc(argument->arg_count + 1, sizeof(*command->arguments));
	if (!command || !command->arguments) {
		free(command);
		*error = -ENOMEM;
		return NULL;
	}
	command->packet = packet;
	packet->references++;
	for (; command->n_arguments < argument->arg_count; command->n_arguments++) {
		struct bo *bo = bo_find(table, handles[command->n_arguments]);
		bo->references++;
		command->arguments[command->n_arguments] = bo;
	}
	return command;
}

int command_submit(struct queue *queue, struct exec_cmd *argument)
{
	int error;
	struct command *command = command_new(queue->bos, argument, &error);
	if (!command)
		return error;
	command->context = argument->hwctx;
	command->seq = argument->seq = queue->submitted++;
	if (queue->tail)
		queue->tail->next = command;
	else
		queue->head = command;
	queue->tail = command;
	pthread_cond_signal(&queue->work);
	return 0;
}

/* ---- carrying out ---- */

static struct bo *argument_at(const struct command *command, uint64_t address, uint64_t *offset)
{
	for (unsigned i = 0; i < command->n_arguments; i++) {
		struct bo *bo = command->arguments[i];
		if (bo->address && address >= bo->address && address - bo->address < bo->size) {
			*offset = address - bo->address;
			return bo;
		}
	}
	return NULL;
}

static uint64_t read_u64(const uint32_t *words)
{
	return words[0] | (uint64_t)words[1] << 32;
}

/* Takes a kernel packet apart, with every check that real firmware leaves to the host. */
static bool launch_of_packet(const struct command *command, const uint32_t *packet, uint64_t n_words,
			     struct launch *launch)
{
	uint32_t header = packet[0], count = PACKET_COUNT(header);
	uint32_t masks = 1 + PACKET_EXTRA_MASKS(header);
	uint64_t offset;

	memset(launch, 0, sizeof(*launch));
	if (count + 1 > n_words || count < masks + REG_BO0 / 4) {
		complain("packet of %u words is too short for a kernel or too long for its buffer", count);
		return false;
	}
	const uint32_t *registers = packet + 1 + masks;
	uint32_t n_registers = count - masks;
	/* The upper half of the opcode may be left over from another command. */
	if (registers[REG_OPCODE / 4] != KERNEL_TXN) {
		complain("opcode %u in the packet, only %d (transaction) is known", registers[0], KERNEL_TXN);
		return false;
	}
	uint64_t instructions = read_u64(registers + REG_INSTR / 4);
	const struct bo *bo = argument_at(command, instructions, &offset);
	if (!bo || bo->type != BO_DEV) {
		complain("instructions at %#llx: not in a cacheable buffer that this command names",
			 (unsigned long long)instructions);
		return false;
	}
	launch->words = (const uint32_t *)(bo->device + offset);
	launch->n_words = (bo->size - offset) / 4;
	/* Hosts pass bytes or words here; the stream's own header has to agree with one of them. */
	uint32_t size = registers[REG_NINSTR / 4], bytes = launch->n_words >= 4 ? launch->words[3] : 0;
	if (offset % 4 || launch->n_words < 4 || (size != bytes && size * 4ull != bytes) || bytes % 4 ||
	    bytes / 4 > launch->n_words) {
		complain("instructions: ninstr %u, header says %u bytes, buffer has %llu from there on", size, bytes,
			 (unsigned long long)(bo->size - offset));
		return false;
	}
	launch->n_words = bytes / 4;
	for (unsigned i = 0; i < MAX_BO_ARGUMENTS && REG_BO0 / 4 + 2 * i + 2 <= n_registers; i++) {
		uint64_t address = read_u64(registers + REG_BO0 / 4 + 2 * i);
		launch->arguments[i].bo = argument_at(command, address, &launch->arguments[i].offset);
		launch->n_arguments = i + 1;
		trace("  bo%u at %#llx: bo %u + %llu", i, (unsigned long long)address,
		      launch->arguments[i].bo ? launch->arguments[i].bo->handle : 0,
		      (unsigned long long)launch->arguments[i].offset);
	}
	return true;
}

/* Sleeps, but no longer than until the queue is stopped. False: stopped. */
static bool sleep_in(struct queue *queue, int64_t nanoseconds)
{
	int64_t end = nanoseconds < 0 ? INT64_MAX : now() + nanoseconds;
	pthread_mutex_lock(&driver_lock);
	while (!queue->stopping && now() < end) {
		/* The condition has the real-time clock; wake up early rather than late and look again. */
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		int64_t left = end - now() < 1000000000 ? end - now() : 1000000000;
		until.tv_nsec += left < 0 ? 0 : left;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&queue->work, &driver_lock, &until);
	}
	bool alive = !queue->stopping;
	pthread_mutex_unlock(&driver_lock);
	return alive;
}

/* Nothing ends a hung command but the driver's time limit, if it has one, or the end of its context. */
static enum packet_state hang(struct queue *queue)
{
	int64_t limit = options.tdr_ms ? options.tdr_ms * 1000000ll : -1;
	return sleep_in(queue, limit) ? STATE_TIMEOUT : STATE_ABORT;
}

static enum packet_state run_packet(struct queue *queue, const struct command *command, const uint32_t *packet,
				    uint64_t n_words)
{
	struct launch launch;
	uint64_t number = (uint64_t)++counters.launches;
	enum fault_kind fault = fault_of_launch(number);

	trace("launch %llu on context %u, packet %08x", (unsigned long long)number, command->context, packet[0]);
	if (options.latency_us && !sleep_in(queue, options.latency_us * 1000ll))
		return STATE_ABORT;
	switch (fault) {
	case FAULT_ERROR:
		return STATE_ERROR;
	case FAULT_ABORT:
		return STATE_ABORT;
	case FAULT_TIMEOUT:
		return STATE_TIMEOUT;
	case FAULT_HANG:
		return hang(queue);
	case FAULT_ENODEV:
		device_lost = true;
		return STATE_ABORT;
	case FAULT_NONE:
		break;
	}
	if (!launch_of_packet(command, packet, n_words, &launch))
		return STATE_ERROR;
	enum packet_state state = array_launch(queue->array, &launch);
	if (state == STATE_TIMEOUT && options.tdr_ms)
		return hang(queue);
	return state;
}

/* What the driver leaves in the payload of a failed packet; a timeout has a health record. */
static void fill_failed(uint32_t *packet, uint64_t n_words, enum packet_state state)
{
	static const uint32_t health[] = { 1, 0, 0xffffffff, 0, 0, 0, 0, 0 };
	uint64_t count = PACKET_COUNT(packet[0]);
	if (!options.fill_failed || count + 1 > n_words)
		return;
	memset(packet + 1, 0xff, count * 4);
	if (state == STATE_TIMEOUT && count * 4 >= sizeof(health))
		memcpy(packet + 1, health, sizeof(health));
}

static void set_state(uint32_t *header, enum packet_state state)
{
	atomic_store((_Atomic uint32_t *)header, (*header & ~0xfu) | state);
}

static struct bo *chained(struct queue *queue, uint64_t handle)
{
	pthread_mutex_lock(&driver_lock);
	struct bo *bo = handle <= UINT32_MAX ? bo_find(queue->bos, (uint32_t)handle) : NULL;
	if (bo && bo->type == BO_CMD)
		bo->references++;
	else
		bo = NULL;
	pthread_mutex_unlock(&driver_lock);
	return bo;
}

static enum packet_state run_chain(struct queue *queue, const struct command *command, uint32_t *packet,
				   uint64_t n_words)
{
	uint32_t n = packet[1];
	if (n == 0 || n > CHAIN_MAX || PACKET_COUNT(packet[0]) < 6 + 2 * n || PACKET_COUNT(packet[0]) + 1 > n_words) {
		complain("chain of %u commands in a packet of %u words", n, PACKET_COUNT(packet[0]));
		return STATE_ERROR;
	}
	enum packet_state state = STATE_COMPLETED;
	for (uint32_t i = 0; i < n && state == STATE_COMPLETED; i++) {
		struct bo *bo = chained(queue, read_u64(packet + 7 + 2 * i));
		if (!bo) {
			complain("command %u of a chain is no command buffer", i);
			state = STATE_ERROR;
		} else {
			state = run_packet(queue, command, (uint32_t *)bo->host, bo->size / 4);
			/* Sic: the driver marks the first command's packet, whichever failed. */
			if (state != STATE_COMPLETED) {
				struct bo *first = chained(queue, read_u64(packet + 7));
				fill_failed((uint32_t *)first->host, first->size / 4, state);
				pthread_mutex_lock(&driver_lock);
				bo_put(first, queue->bos);
				pthread_mutex_unlock(&driver_lock);
			}
			pthread_mutex_lock(&driver_lock);
			bo_put(bo, queue->bos);
			pthread_mutex_unlock(&driver_lock);
		}
		if (state != STATE_COMPLETED)
			packet[3] = i; /* error_index */
	}
	return state;
}

static void carry_out(struct queue *queue, struct command *command)
{
	uint32_t *packet = (uint32_t *)command->packet->host;
	uint64_t n_words = command->packet->size / 4;
	bool chain = PACKET_OPCODE(packet[0]) == OPCODE_CHAIN;
	enum packet_state state = STATE_ERROR;

	if (chain)
		state = run_chain(queue, command, packet, n_words);
	else if (PACKET_OPCODE(packet[0]) == OPCODE_START_CU)
		state = run_packet(queue, command, packet, n_words);
	else
		complain("packet opcode %u is not known", PACKET_OPCODE(packet[0]));
	++*(state == STATE_COMPLETED ? &counters.completed : &counters.failed);
	if (state != STATE_COMPLETED && !chain)
		fill_failed(packet, n_words, state);
	trace("command %llu of context %u: state %d", (unsigned long long)command->seq, command->context, (int)state);
	set_state(packet, state);
}

static void *worker(void *argument)
{
	struct queue *queue = argument;
	pthread_mutex_lock(&driver_lock);
	for (;;) {
		while (!queue->head && !queue->stopping)
			pthread_cond_wait(&queue->work, &driver_lock);
		struct command *command = queue->head;
		if (!command)
			break;
		if (queue->stopping) {
			set_state((uint32_t *)command->packet->host, STATE_ABORT);
		} else {
			pthread_mutex_unlock(&driver_lock);
			carry_out(queue, command);
			pthread_mutex_lock(&driver_lock);
		}
		queue->head = command->next;
		if (!queue->head)
			queue->tail = NULL;
		command_free(command, queue->bos);
		queue->finished++;
		syscall(SYS_futex, &queue->finished, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
	}
	pthread_mutex_unlock(&driver_lock);
	return NULL;
}

/* Signals stay with the threads of the program: Python wants SIGINT in its own. */
int queue_start(struct queue *queue, struct bo_table *bos)
{
	sigset_t all, old;
	queue->bos = bos;
	pthread_cond_init(&queue->work, NULL);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int result = pthread_create(&queue->worker, NULL, worker, queue);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -result;
}

void queue_stop(struct queue *queue, bool forked)
{
	queue->stopping = true;
	pthread_cond_broadcast(&queue->work);
	if (forked)
		return; /* destroying the condition would wait for the parent's thread to leave it */
	pthread_mutex_unlock(&driver_lock);
	pthread_join(queue->worker, NULL);
	pthread_mutex_lock(&driver_lock);
	pthread_cond_destroy(&queue->work);
}
