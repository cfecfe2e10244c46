/* Shim DMA: its registers, and transfers between buffer objects and the core. */
#pragma once

#include "array.h"

bool shim_write(struct array_state *array, unsigned column, uint32_t offset, uint32_t value, uint32_t mask);
bool shim_patch(struct array_state *array, unsigned column, uint32_t offset, unsigned argument, uint64_t plus);
/* Moves up to the fifo's room from memory into the input of the core. False: nothing to move. */
bool shim_feed(struct array_state *array, unsigned channel, struct fifo *fifo);
/* Moves what the core has given to memory. False: no task takes it. */
bool shim_drain(struct array_state *array, struct fifo *fifo);
