/* Shim DMA: buffer descriptors, task queues, transfers between buffer objects and the core.
 *
 * Time is modelled by its worst case: a transfer has moved no more than what some SYNC proves. So a stream
 * that reuses a descriptor, or fills a queue, before it may, fails here although fast hardware would
 * usually let it pass. */
#include <string.h>

#include "array.h"
#include "log.h"
#include "shim_dma.h"

enum {
	BD_BASE = 0x1d000,
	BD_BYTES = BD_WORDS * 4,
	BD_END = BD_BASE + N_BDS * BD_BYTES,
	CHANNEL_BASE = 0x1d200, /* S2MM 0, S2MM 1, MM2S 0, MM2S 1: control and queue each */
	CHANNEL_END = CHANNEL_BASE + 4 * 8,
};

/* Tokens are sent to the packet id of the controller; under any other they are lost. */
#define CONTROLLER_ID 0xf

static uint32_t bits(uint32_t word, unsigned high, unsigned low)
{
	return word >> low & (uint32_t)((1ull << (high - low + 1)) - 1);
}

static bool bd_valid(const struct descriptor *bd)
{
	return bits(bd->words[7], 25, 25);
}

static bool bd_chained(const struct descriptor *bd, unsigned *next)
{
	*next = bits(bd->words[7], 30, 27);
	return bits(bd->words[7], 26, 26);
}

/* Is the descriptor part of a task that is not known to be done? */
static bool bd_in_use(const struct column *column, unsigned bd)
{
	for (unsigned c = 0; c < 4; c++) {
		const struct channel *channel = &column->channels[c / 2][c % 2];
		for (unsigned t = 0; t < channel->n_tasks; t++) {
			unsigned at = channel->queue[t].first_bd;
			for (unsigned i = 0; i < N_BDS; i++)
				if (at == bd)
					return true;
				else if (!bd_chained(&column->bds[at], &at))
					break;
		}
	}
	return false;
}

/* Everything the model does not do would give silently wrong data, so it is refused. */
static bool check_bd(struct array_state *array, unsigned column, unsigned number)
{
	const struct descriptor *bd = &array->columns[column].bds[number];
	if (!bd_valid(bd))
		return refuse_stream(array, "descriptor %u is not valid (word 7 is %#x)", number, bd->words[7]);
	if (!bd->patched)
		return refuse_stream(array, "descriptor %u has no buffer address in this launch", number);
	if (bd->words[0] == 0)
		return refuse_stream(array, "descriptor %u has length 0", number);
	if (bits(bd->words[2], 30, 30) || bits(bd->words[7], 12, 12) || bits(bd->words[7], 24, 18))
		return refuse_stream(array, "descriptor %u uses packets or locks", number);
	return true;
}

static bool push(struct array_state *array, unsigned column, unsigned direction, unsigned number, uint32_t value)
{
	struct channel *channel = &array->columns[column].channels[direction][number];
	struct task task = { bits(value, 3, 0), bits(value, 23, 16) + 1, bits(value, 31, 31) };
	unsigned bd = task.first_bd, n = 0;

	if (value & ~0x80ff000fu)
		return refuse_stream(array, "queue of %s %u: unknown bits in %#x", directions[direction], number, value);
	if (channel->n_tasks == TASK_QUEUE)
		return refuse_stream(array, "queue of %s %u is full: %u tasks may be unfinished", directions[direction],
				     number, TASK_QUEUE);
	if (column != 0 || (direction == S2MM && number != 0))
		return refuse_stream(array, "%s %u of column %u is not connected in this design", directions[direction],
				     number, column);
	if (task.token && bits(channel->control, 12, 8) != CONTROLLER_ID)
		return refuse_stream(array, "tokens of %s %u go to packet id %u, not to the controller",
				     directions[direction], number, bits(channel->control, 12, 8));
	do
		if (!check_bd(array, column, bd) || ++n > N_BDS)
			return n > N_BDS ? refuse_stream(array, "descriptors chained in a circle") : false;
	while (bd_chained(&array->columns[column].bds[bd], &bd));
	if (channel->n_tasks == 0) {
		channel->bd = task.first_bd;
		channel->word = 0;
	}
	channel->queue[channel->n_tasks++] = task;
	return true;
}

bool shim_write(struct array_state *array, unsigned column, uint32_t offset, uint32_t value, uint32_t mask)
{
	struct column *state = &array->columns[column];
	if (offset >= BD_BASE && offset < BD_END) {
		unsigned number = (offset - BD_BASE) / BD_BYTES, word = (offset - BD_BASE) % BD_BYTES / 4;
		struct descriptor *bd = &state->bds[number];
		if (bd_in_use(state, number))
			return refuse_stream(array, "descriptor %u is written while its task may be unfinished", number);
		bd->words[word] = (bd->words[word] & ~mask) | (value & mask);
		if (word == 1 || word == 2)
			bd->patched = false;
		return true;
	}
	if (offset >= CHANNEL_BASE && offset < CHANNEL_END) {
		unsigned number = (offset - CHANNEL_BASE) / 8;
		struct channel *channel = &state->channels[number / 2][number % 2];
		if (offset % 8 == 4)
			return mask == UINT32_MAX ? push(array, column, number / 2, number % 2, value)
						  : refuse_stream(array, "masked write to a task queue");
		channel->control = (channel->control & ~mask) | (value & mask);
		return bits(channel->control, 7, 0) == 0 ||
		       refuse_stream(array, "control register %#x: reset and pause are not modelled", offset);
	}
	return refuse_stream(array, "write to %#x: no register of the shim tile that is modelled", offset);
}

bool shim_patch(struct array_state *array, unsigned column, uint32_t offset, unsigned argument, uint64_t plus)
{
	unsigned number = (offset - BD_BASE) / BD_BYTES;
	if (offset < BD_BASE || offset >= BD_END || (offset - BD_BASE) % BD_BYTES != 4)
		return refuse_stream(array, "address patch of %#x, which is no descriptor's address word", offset);
	if (argument >= array->launch->n_arguments || !array->launch->arguments[argument].bo)
		return refuse_stream(array, "address patch with argument %u, which is no buffer of this command",
				     argument);
	if (bd_in_use(&array->columns[column], number))
		return refuse_stream(array, "descriptor %u is patched while its task may be unfinished", number);
	struct descriptor *bd = &array->columns[column].bds[number];
	bd->patched = true;
	bd->argument = argument;
	bd->offset = plus;
	return true;
}

/* Where word i of the descriptor is, in bytes behind the argument's start, and how many of the n words
 * from there on follow without a gap. */
static uint64_t place(const struct descriptor *bd, uint64_t i, uint64_t *n)
{
	uint64_t stride0 = bits(bd->words[3], 19, 0) + 1, d0 = bits(bd->words[3], 29, 20);
	uint64_t stride1 = bits(bd->words[4], 19, 0) + 1, d1 = bits(bd->words[4], 29, 20);
	uint64_t stride2 = bits(bd->words[5], 19, 0) + 1;
	uint64_t iteration = (uint64_t)bits(bd->words[6], 31, 26) * (bits(bd->words[6], 19, 0) + 1);
	uint64_t i0 = d0 ? i % d0 : i, rest = d0 ? i / d0 : 0;
	uint64_t i1 = d1 ? rest % d1 : rest, i2 = d1 ? rest / d1 : 0;
	if (stride0 != 1)
		*n = 1;
	else if (d0 && *n > d0 - i0)
		*n = d0 - i0;
	return bd->offset + 4 * (iteration + i0 * stride0 + i1 * stride1 + i2 * stride2);
}

/* One execution of the descriptor is over: its iteration moves on, then the chain, the task, the queue. */
static void next_bd(struct column *column, struct channel *channel)
{
	struct descriptor *bd = &column->bds[channel->bd];
	uint32_t size = bits(bd->words[6], 25, 20) + 1, current = bits(bd->words[6], 31, 26);
	bd->words[6] = (bd->words[6] & 0x03ffffffu) | (current + 1) % size << 26;
	channel->word = 0;
	if (bd_chained(bd, &channel->bd))
		return;
	struct task *task = &channel->queue[0];
	if (--task->executions == 0) {
		channel->tokens += task->token;
		memmove(task, task + 1, --channel->n_tasks * sizeof(*task));
	}
	channel->bd = task->first_bd;
}

/* Moves up to n bytes between the task under way and data. Returns the bytes moved, 0 after an error. */
static size_t move(struct array_state *array, unsigned direction, unsigned number, uint8_t *data, size_t n)
{
	struct column *column = &array->columns[0];
	struct channel *channel = &column->channels[direction][number];
	size_t moved = 0;
	while (moved < n && channel->n_tasks) {
		const struct descriptor *bd = &column->bds[channel->bd];
		const struct launch_memory *memory = &array->launch->arguments[bd->argument];
		uint64_t words = bd->words[0] - channel->word;
		if (words > (n - moved) / 4)
			words = (n - moved) / 4;
		uint64_t at = place(bd, channel->word, &words), size = memory->bo->size - memory->offset;
		if (at % 4 || memory->offset % 4 || at > size || words * 4 > size - at) {
			refuse_stream(array,
				      "%s %u, descriptor %u, word %llu: bytes %llu + %llu of argument %u, which has %llu",
				      directions[direction], number, channel->bd, (unsigned long long)channel->word,
				      (unsigned long long)at, (unsigned long long)words * 4, bd->argument,
				      (unsigned long long)size);
			return 0;
		}
		uint8_t *memory_at = memory->bo->device + memory->offset + at;
		if (direction == MM2S)
			memcpy(data + moved, memory_at, words * 4);
		else
			memcpy(memory_at, data + moved, words * 4);
		moved += words * 4;
		channel->word += words;
		if (channel->word == bd->words[0])
			next_bd(column, channel);
	}
	*(direction == MM2S ? &counters.dma_read_bytes : &counters.dma_written_bytes) += (long long)moved;
	return moved;
}

bool shim_feed(struct array_state *array, unsigned channel, struct fifo *fifo)
{
	size_t moved = move(array, MM2S, channel, fifo->data + fifo->count, fifo->size - fifo->count);
	fifo->count += moved;
	return moved != 0;
}

bool shim_drain(struct array_state *array, struct fifo *fifo)
{
	size_t moved = move(array, S2MM, 0, fifo->data, fifo->count);
	memmove(fifo->data, fifo->data + moved, fifo->count - moved);
	fifo->count -= moved;
	return moved != 0;
}
