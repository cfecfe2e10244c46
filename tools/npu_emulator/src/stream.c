/* One launch: decodes the transaction and hands each operation to the tile it is for. Whatever the array
 * could not do is an error, with a line that names the operation. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "array.h"
#include "core.h"
#include "log.h"
#include "options.h"
#include "shim_dma.h"
#include "stream.h"

enum { OP_WRITE32 = 0x00, OP_BLOCKWRITE = 0x01, OP_MASKWRITE = 0x03, OP_SYNC = 0x80, OP_DDR_PATCH = 0x81 };
enum { HEADER_WORDS = 4, ROWS = 6, MEMORY_TILE_ROWS = 1, CORE_ROW = 2 };

static bool write_register(struct array_state *array, uint32_t address, uint32_t value, uint32_t mask)
{
	unsigned column = address >> 25, row = address >> 20 & 0x1f;
	uint32_t offset = address & 0xfffff;

	if (address % 4)
		return refuse_stream(array, "register address %#x is no multiple of 4", address);
	if (column >= array->n_columns)
		return refuse_stream(array, "column %u, but the partition has %u", column, array->n_columns);
	trace("    column %u row %u %#07x = %#x mask %#x", column, row, offset, value, mask);
	if (row == 0)
		return shim_write(array, column, offset, value, mask);
	if (row == CORE_ROW && column == 0 && mask == UINT32_MAX)
		return core_write(array, offset, value);
	return refuse_stream(array, "write to %#x: no register of the design there (column %u, row %u)", address,
			     column, row);
}

static bool do_block_write(struct array_state *array, const uint32_t *op, uint32_t n_words)
{
	for (uint32_t i = 4; i < n_words; i++)
		if (!write_register(array, op[2] + 4 * (i - 4), op[i], UINT32_MAX))
			return false;
	return true;
}

static bool do_patch(struct array_state *array, const uint32_t *op)
{
	uint32_t address = op[6];
	uint64_t plus = op[10] | (uint64_t)op[11] << 32;
	unsigned column = address >> 25, row = address >> 20 & 0x1f;
	trace("    patch %#x with argument %u + %llu", address, op[8], (unsigned long long)plus);
	if (op[7] || op[9] || row != 0 || column >= array->n_columns)
		return refuse_stream(array, "address patch of %#x: not in a shim tile of the partition", address);
	return shim_patch(array, column, address & 0xfffff, op[8], plus);
}

/* What is the least that has happened when a token of this channel has arrived. */
static bool wait_for(struct array_state *array, unsigned column, unsigned direction, unsigned number)
{
	struct channel *channel = &array->columns[column].channels[direction][number];
	struct core *core = &array->core;
	while (channel->tokens == 0) {
		struct fifo *fifo = direction == MM2S ? &core->in[number] : &core->out;
		bool progress = false;
		if (channel->n_tasks == 0) {
			snprintf(array->why, sizeof(array->why), "no task with a token is under way");
		} else {
			size_t room = fifo->size - fifo->count;
			progress = (direction == MM2S && room && shim_feed(array, number, fifo)) ||
				   (direction == S2MM && fifo->count && shim_drain(array, fifo)) || core_step(array);
		}
		if (array->failed)
			return false;
		if (!progress) {
			complain("launch: hangs in SYNC on %s %u of column %u: %s", directions[direction], number,
				 column, array->why);
			array->starved = true;
			return false;
		}
	}
	channel->tokens--;
	return true;
}

static bool do_sync(struct array_state *array, const uint32_t *op)
{
	unsigned direction = op[2] & 0xff, row = op[2] >> 8 & 0xff, column = op[2] >> 16 & 0xff;
	unsigned rows = op[3] >> 8 & 0xff, columns = op[3] >> 16 & 0xff, channel = op[3] >> 24;
	trace("    wait for %s %u of column %u", direction == S2MM ? "S2MM" : "MM2S", channel, column);
	if (direction > 1 || row != 0 || rows != 1 || columns == 0 || column + columns > array->n_columns ||
	    channel > 1)
		return refuse_stream(array, "SYNC of direction %u, row %u + %u, column %u + %u, channel %u", direction,
				     row, rows, column, columns, channel);
	for (unsigned i = 0; i < columns; i++)
		if (!wait_for(array, column + i, direction, channel))
			return false;
	return true;
}

/* Words of the operation at op, of n that are left; 0: it is none or does not fit. */
static uint32_t operation_words(const uint32_t *op, uint64_t n)
{
	uint32_t bytes;
	switch (op[0] & 0xff) {
	case OP_WRITE32:
		bytes = n >= 6 && op[5] == 24 ? 24 : 0;
		break;
	case OP_BLOCKWRITE:
		bytes = n >= 4 && op[3] >= 20 && op[3] % 4 == 0 ? op[3] : 0;
		break;
	case OP_MASKWRITE: /* mlir-aie writes 28 bytes, aie-rt 32 */
		bytes = n >= 7 && (op[6] == 28 || op[6] == 32) ? op[6] : 0;
		break;
	case OP_SYNC:
		bytes = n >= 4 && op[1] == 16 ? 16 : 0;
		break;
	case OP_DDR_PATCH:
		bytes = n >= 12 && op[1] == 48 ? 48 : 0;
		break;
	default:
		bytes = 0;
	}
	return bytes / 4 <= n ? bytes / 4 : 0;
}

static bool do_operation(struct array_state *array, const uint32_t *op, uint32_t n_words)
{
	switch (op[0] & 0xff) {
	case OP_WRITE32:
		return op[3] == 0 && write_register(array, op[2], op[4], UINT32_MAX);
	case OP_BLOCKWRITE:
		return do_block_write(array, op, n_words);
	case OP_MASKWRITE:
		return op[3] == 0 && write_register(array, op[2], op[4], op[5]);
	case OP_SYNC:
		return do_sync(array, op);
	default:
		return do_patch(array, op);
	}
}

/* At the end of the stream everything has to be known to be done: the host reads, the next launch begins. */
static bool finished(struct array_state *array)
{
	const struct core *core = &array->core;
	for (unsigned c = 0; c < 4; c++) {
		const struct channel *channel = &array->columns[0].channels[c / 2][c % 2];
		if (channel->n_tasks)
			return refuse_stream(array, "the stream ends while %s %u may be at work on %u tasks",
					     directions[c / 2], c % 2, channel->n_tasks);
		if (channel->tokens)
			return refuse_stream(array, "the stream ends with %u tokens of %s %u not waited for",
					     channel->tokens, directions[c / 2], c % 2);
	}
	if (core->in[0].count || core->in[1].count || core->out.count || core->running)
		return refuse_stream(array,
				     "the stream ends with data left: %zu and %zu bytes to the core, %zu from it, "
				     "output tile %u of %u, K tile %u of %u",
				     core->in[0].count, core->in[1].count, core->out.count, core->tile, core->n_tiles,
				     core->k, core->n_k);
	return true;
}

static bool check_header(struct array_state *array, const uint32_t *words)
{
	unsigned generation = strcmp(options.pci_id, "0x1502") == 0 ? 3 : 4;
	unsigned columns = words[1] & 0xff;
	if ((words[0] & 0xffff) != 0x0100)
		return refuse_stream(array, "transaction version %u.%u; only 0.1 is carried out", words[0] & 0xff,
				     words[0] >> 8 & 0xff);
	if ((words[0] >> 16 & 0xff) != generation || words[0] >> 24 != ROWS || columns == 0 ||
	    columns > options.columns || (words[1] >> 8) != MEMORY_TILE_ROWS)
		return refuse_stream(array, "transaction header %#x %#x is not of this device (generation %u, %u rows)",
				     words[0], words[1], generation, ROWS);
	return true;
}

static bool carry_out(struct array_state *array)
{
	const uint32_t *words = array->launch->words;
	uint64_t at = HEADER_WORDS, end = array->launch->n_words;
	uint32_t n_operations = words[2], n = 0;

	if (!check_header(array, words))
		return false;
	for (; at < end; n++) {
		uint32_t n_words = operation_words(words + at, end - at);
		trace("  op %u at word %llu: code %#x", n, (unsigned long long)at, words[at] & 0xff);
		if (n_words == 0)
			return refuse_stream(array, "operation %u at byte %llu (code %#x) is unknown or of a wrong size",
					     n, (unsigned long long)at * 4, words[at] & 0xff);
		if (!do_operation(array, words + at, n_words)) {
			if (!array->failed && !array->starved)
				refuse_stream(array, "register address beyond 32 bits");
			complain("launch: that was operation %u of %u, at byte %llu of the stream", n, n_operations,
				 (unsigned long long)at * 4);
			return false;
		}
		at += n_words;
	}
	if (n != n_operations)
		return refuse_stream(array, "the header says %u operations, the stream has %u", n_operations, n);
	return finished(array);
}

enum packet_state array_launch(struct array_state *array, const struct launch *launch)
{
	array->launch = launch;
	array->failed = array->starved = false;
	if (!array->core.kernel) {
		refuse_stream(array, "the xclbin's PDI is none that the emulator knows");
		return STATE_ERROR;
	}
	/* Addresses are those of this launch's buffers: one that is left from an earlier launch is a fault. */
	for (unsigned c = 0; c < array->n_columns; c++)
		for (unsigned i = 0; i < N_BDS; i++)
			array->columns[c].bds[i].patched = false;
	bool done = carry_out(array);
	if (!done) { /* what is half done must not reach into the next launch */
		memset(array->columns, 0, sizeof(array->columns));
		core_reset(&array->core);
	}
	array->launch = NULL;
	return done ? STATE_COMPLETED : array->starved ? STATE_TIMEOUT : STATE_ERROR;
}

struct array_state *array_create(const struct bo *pdi, unsigned columns)
{
	struct array_state *array = calloc(1, sizeof(*array));
	if (!array)
		return NULL;
	array->n_columns = columns < MAX_COLUMNS ? columns : MAX_COLUMNS;
	if (!core_load(&array->core, pdi->device, pdi->size))
		complain("PDI of %llu bytes: no emulation kernel in it; launches will fail",
			 (unsigned long long)pdi->size);
	return array;
}

void array_free(struct array_state *array)
{
	if (!array)
		return;
	core_free(&array->core);
	free(array);
}
