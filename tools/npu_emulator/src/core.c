/* The core program of an emulation xclbin. Its identity is in the PDI; the arithmetic is that of the
 * kernels' own sources (kernels/src), linked into this library. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "array.h"
#include "core.h"
#include "shim_dma.h"

extern void gemm_i8_i32_64x64x64(const int8_t *a, const int8_t *b, int32_t *c);
extern void gemm_i8_i32_16x64x64(const int8_t *a, const int8_t *b, int32_t *c);
extern void zero_i32_64x64(int32_t *c);
extern void zero_i32_16x64(int32_t *c);

/* A core program that the emulator knows: GEMM tiles, computed by the kernels' own sources. */
struct tile_kernel {
	const char *name;
	uint32_t tm, tk, tn;
	void (*zero)(int32_t *c);
	void (*multiply)(const int8_t *a, const int8_t *b, int32_t *c);
};

static const struct tile_kernel kernels[] = {
	{ "gemm_int8", 64, 64, 64, zero_i32_64x64, gemm_i8_i32_64x64x64 },
	{ "gemm_int8", 16, 64, 64, zero_i32_16x64, gemm_i8_i32_16x64x64 },
};

/* What build_xclbin.py writes as the PDI. */
struct identity {
	char magic[8], name[32];
	uint32_t tm, tk, tn, reserved[4];
};

/* The core's data memory that the host writes: K tiles per output tile, output tiles. */
enum { PARAMETERS = 0xffe0, ALIGNMENT = 32 };

static void *aligned(size_t size)
{
	return aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
}

static bool make_fifo(struct fifo *fifo, size_t tile)
{
	fifo->size = 2 * tile; /* double buffers */
	fifo->data = aligned(fifo->size);
	return fifo->data != NULL;
}

bool core_load(struct core *core, const uint8_t *pdi, uint64_t size)
{
	struct identity identity;
	if (size < sizeof(identity))
		return false;
	memcpy(&identity, pdi, sizeof(identity));
	if (memcmp(identity.magic, "WNPUEMU1", sizeof(identity.magic)) != 0 || identity.name[31])
		return false;
	for (size_t i = 0; i < sizeof(kernels) / sizeof(*kernels); i++) {
		const struct tile_kernel *k = &kernels[i];
		if (strcmp(k->name, identity.name) || k->tm != identity.tm || k->tk != identity.tk ||
		    k->tn != identity.tn)
			continue;
		core->kernel = k;
		core->a = aligned(k->tm * k->tk);
		core->b = aligned(k->tk * k->tn);
		core->c = aligned(k->tm * k->tn * sizeof(int32_t));
		if (make_fifo(&core->in[0], k->tm * k->tk) && make_fifo(&core->in[1], k->tk * k->tn) &&
		    make_fifo(&core->out, k->tm * k->tn * sizeof(int32_t)) && core->a && core->b && core->c)
			return true;
		core_free(core);
		return false;
	}
	return false;
}

void core_free(struct core *core)
{
	free(core->a);
	free(core->b);
	free(core->c);
	free(core->in[0].data);
	free(core->in[1].data);
	free(core->out.data);
	memset(core, 0, sizeof(*core));
}

void core_reset(struct core *core)
{
	core->running = false;
	core->k = core->tile = 0;
	core->in[0].count = core->in[1].count = core->out.count = 0;
}

bool core_write(struct array_state *array, uint32_t offset, uint32_t value)
{
	struct core *core = &array->core;
	if (offset != PARAMETERS && offset != PARAMETERS + 4)
		return refuse_stream(array, "write to %#x of the core: no parameter there", offset);
	if (core->running)
		return refuse_stream(array, "parameter %#x is written while the core is at work", offset);
	core->parameters[(offset - PARAMETERS) / 4] = (int32_t)value;
	return true;
}

/* Has the core a whole tile of this input? If not, the DMA brings more. */
static bool has_tile(struct array_state *array, unsigned channel)
{
	struct fifo *fifo = &array->core.in[channel];
	while (fifo->count < fifo->size / 2)
		if (!shim_feed(array, channel, fifo)) {
			snprintf(array->why, sizeof(array->why),
				 "the core waits for a tile of %c (output tile %u of %u, K tile %u of %u, has %zu of %zu "
				 "bytes), MM2S %u has nothing more to send",
				 "AB"[channel], array->core.tile, array->core.n_tiles, array->core.k,
				 array->core.n_k, fifo->count, fifo->size / 2, channel);
			return false;
		}
	return true;
}

static void take_tile(struct fifo *fifo, int8_t *tile)
{
	size_t size = fifo->size / 2;
	memcpy(tile, fifo->data, size);
	fifo->count -= size;
	memmove(fifo->data, fifo->data + size, fifo->count);
}

static bool start(struct array_state *array)
{
	struct core *core = &array->core;
	if (core->parameters[0] <= 0 || core->parameters[1] <= 0)
		return refuse_stream(array, "core parameters: %d K tiles, %d output tiles", core->parameters[0],
				     core->parameters[1]);
	core->n_k = (uint32_t)core->parameters[0];
	core->n_tiles = (uint32_t)core->parameters[1];
	core->k = core->tile = 0;
	core->running = true;
	return true;
}

bool core_step(struct array_state *array)
{
	struct core *core = &array->core;
	struct fifo *out = &core->out;
	/* The parameters are read when the first A tile of a launch is there. */
	if (!has_tile(array, 0) || (!core->running && !start(array)) || !has_tile(array, 1))
		return false;
	/* A new output tile needs one of the two output buffers. */
	if (core->k == 0 && out->count > out->size / 2 && !shim_drain(array, out)) {
		snprintf(array->why, sizeof(array->why), "both output buffers are full and S2MM 0 has no task");
		return false;
	}
	if (core->k == 0)
		core->kernel->zero(core->c);
	take_tile(&core->in[0], core->a);
	take_tile(&core->in[1], core->b);
	core->kernel->multiply(core->a, core->b, core->c);
	if (++core->k < core->n_k)
		return true;
	memcpy(out->data + out->count, core->c, out->size / 2);
	out->count += out->size / 2;
	core->k = 0;
	core->running = ++core->tile < core->n_tiles;
	return true;
}
