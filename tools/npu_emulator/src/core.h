/* The core program of an emulation xclbin. */
#pragma once

#include "array.h"

bool core_load(struct core *core, const uint8_t *pdi, uint64_t size);
void core_free(struct core *core);
void core_reset(struct core *core);
bool core_write(struct array_state *array, uint32_t offset, uint32_t value);
/* One product of tiles. False: the core waits for data or for room; array->why says for which. */
bool core_step(struct array_state *array);
