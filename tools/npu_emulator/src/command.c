/* Commands: submission, the thread that carries them out, completion and waiting. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "wne.h"

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

int command_wait(struct context *context, uint64_t seq, int64_t deadline)
{
	for (;;) {
		uint32_t finished = context->finished;
		if (finished > seq)
			return 0;
		int result = futex_wait(&context->finished, finished, deadline);
		if (result == -EINTR || result == -ETIMEDOUT)
			return result == -EINTR ? -EINTR : -ETIME;
	}
}

/* ---- submission ---- */

void command_free(struct command *command, struct bo_table *table)
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

int command_submit(struct client *client, struct exec_cmd *argument)
{
	struct context *context;
	/* A context takes QUEUE_DEPTH commands; one more waits here. */
	for (;;) {
		context = context_find(client, argument->hwctx);
		if (!context || context->broken)
			return -ENOENT;
		if (!context->array)
			return -EINVAL;
		if (context->submitted - context->finished < QUEUE_DEPTH)
			break;
		uint64_t oldest = context->finished;
		pthread_mutex_unlock(&driver_lock);
		int result = command_wait(context, oldest, INT64_MAX);
		pthread_mutex_lock(&driver_lock);
		if (result < 0)
			return result;
	}
	int error;
	struct command *command = command_new(&client->bos, argument, &error);
	if (!command)
		return error;
	command->seq = argument->seq = context->submitted++;
	if (context->tail)
		context->tail->next = command;
	else
		context->head = command;
	context->tail = command;
	pthread_cond_signal(&context->work);
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

/* Sleeps, but no longer than until the context is destroyed. False: destroyed. */
static bool sleep_in(struct context *context, int64_t nanoseconds)
{
	int64_t end = nanoseconds < 0 ? INT64_MAX : now() + nanoseconds;
	pthread_mutex_lock(&driver_lock);
	while (!context->stopping && now() < end) {
		/* The condition has the real-time clock; wake up early rather than late and look again. */
		struct timespec until;
		clock_gettime(CLOCK_REALTIME, &until);
		int64_t left = end - now() < 1000000000 ? end - now() : 1000000000;
		until.tv_nsec += left < 0 ? 0 : left;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&context->work, &driver_lock, &until);
	}
	bool alive = !context->stopping;
	pthread_mutex_unlock(&driver_lock);
	return alive;
}

/* Nothing ends a hung command but the driver's time limit, if it has one, or the end of its context. */
static enum packet_state hang(struct context *context)
{
	int64_t limit = options.tdr_ms ? options.tdr_ms * 1000000ll : -1;
	return sleep_in(context, limit) ? STATE_TIMEOUT : STATE_ABORT;
}

static enum packet_state run_packet(struct context *context, const struct command *command, const uint32_t *packet,
				    uint64_t n_words)
{
	struct launch launch;
	uint64_t number = (uint64_t)++counters.launches;
	enum fault_kind fault = fault_of_launch(number);

	trace("launch %llu on context %u, packet %08x", (unsigned long long)number, context->handle, packet[0]);
	if (options.latency_us && !sleep_in(context, options.latency_us * 1000ll))
		return STATE_ABORT;
	switch (fault) {
	case FAULT_ERROR:
		return STATE_ERROR;
	case FAULT_ABORT:
		return STATE_ABORT;
	case FAULT_TIMEOUT:
		return STATE_TIMEOUT;
	case FAULT_HANG:
		return hang(context);
	case FAULT_ENODEV:
		device_lost = true;
		return STATE_ABORT;
	case FAULT_NONE:
		break;
	}
	if (!launch_of_packet(command, packet, n_words, &launch))
		return STATE_ERROR;
	enum packet_state state = array_launch(context->array, &launch);
	if (state == STATE_TIMEOUT && options.tdr_ms)
		return hang(context);
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

static struct bo *chained(struct context *context, uint64_t handle)
{
	pthread_mutex_lock(&driver_lock);
	struct bo *bo = handle <= UINT32_MAX ? bo_find(&context->client->bos, (uint32_t)handle) : NULL;
	if (bo && bo->type == BO_CMD)
		bo->references++;
	else
		bo = NULL;
	pthread_mutex_unlock(&driver_lock);
	return bo;
}

static enum packet_state run_chain(struct context *context, const struct command *command, uint32_t *packet,
				   uint64_t n_words)
{
	uint32_t n = packet[1];
	if (n == 0 || n > CHAIN_MAX || PACKET_COUNT(packet[0]) < 6 + 2 * n || PACKET_COUNT(packet[0]) + 1 > n_words) {
		complain("chain of %u commands in a packet of %u words", n, PACKET_COUNT(packet[0]));
		return STATE_ERROR;
	}
	enum packet_state state = STATE_COMPLETED;
	for (uint32_t i = 0; i < n && state == STATE_COMPLETED; i++) {
		struct bo *bo = chained(context, read_u64(packet + 7 + 2 * i));
		if (!bo) {
			complain("command %u of a chain is no command buffer", i);
			state = STATE_ERROR;
		} else {
			state = run_packet(context, command, (uint32_t *)bo->host, bo->size / 4);
			/* Sic: the driver marks the first command's packet, whichever failed. */
			if (state != STATE_COMPLETED) {
				struct bo *first = chained(context, read_u64(packet + 7));
				fill_failed((uint32_t *)first->host, first->size / 4, state);
				pthread_mutex_lock(&driver_lock);
				bo_put(first, &context->client->bos);
				pthread_mutex_unlock(&driver_lock);
			}
			pthread_mutex_lock(&driver_lock);
			bo_put(bo, &context->client->bos);
			pthread_mutex_unlock(&driver_lock);
		}
		if (state != STATE_COMPLETED)
			packet[3] = i; /* error_index */
	}
	return state;
}

static void carry_out(struct context *context, struct command *command)
{
	uint32_t *packet = (uint32_t *)command->packet->host;
	uint64_t n_words = command->packet->size / 4;
	bool chain = PACKET_OPCODE(packet[0]) == OPCODE_CHAIN;
	enum packet_state state = STATE_ERROR;

	if (chain)
		state = run_chain(context, command, packet, n_words);
	else if (PACKET_OPCODE(packet[0]) == OPCODE_START_CU)
		state = run_packet(context, command, packet, n_words);
	else
		complain("packet opcode %u is not known", PACKET_OPCODE(packet[0]));
	++*(state == STATE_COMPLETED ? &counters.completed : &counters.failed);
	if (state != STATE_COMPLETED && !chain)
		fill_failed(packet, n_words, state);
	trace("command %llu of context %u: state %d", (unsigned long long)command->seq, context->handle, (int)state);
	set_state(packet, state);
}

void *command_worker(void *argument)
{
	struct context *context = argument;
	pthread_mutex_lock(&driver_lock);
	for (;;) {
		while (!context->head && !context->stopping)
			pthread_cond_wait(&context->work, &driver_lock);
		struct command *command = context->head;
		if (!command)
			break;
		if (context->stopping) {
			set_state((uint32_t *)command->packet->host, STATE_ABORT);
		} else {
			pthread_mutex_unlock(&driver_lock);
			carry_out(context, command);
			pthread_mutex_lock(&driver_lock);
		}
		context->head = command->next;
		if (!context->head)
			context->tail = NULL;
		command_free(command, &context->client->bos);
		context->finished++;
		syscall(SYS_futex, &context->finished, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
	}
	pthread_mutex_unlock(&driver_lock);
	return NULL;
}
