/* What a launch is given: the instructions and the buffers. */
#pragma once

#include <stdint.h>

#include "bo.h"

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
