/* The array of a context, and launches on it. */
#pragma once

#include "launch.h"

struct array_state;

struct array_state *array_create(const struct bo *pdi, unsigned columns);
void array_free(struct array_state *array);
/* STATE_COMPLETED, STATE_ERROR or STATE_TIMEOUT (a stream that hardware would hang on). */
enum packet_state array_launch(struct array_state *array, const struct launch *launch);
