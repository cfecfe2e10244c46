// What the processor and the system report.
#pragma once

#include <stddef.h>

#include "isas.h"

// has_scalar() and so on: whether the instructions of a set can be run. That of AMX asks the system
// for the tile registers.
#define DECLARE(name, floats, options) bool has_##name();
ISAS(DECLARE)
#undef DECLARE

// The processor's own name for itself, "" if it has none to tell.
void find_cpu_name(char *name, size_t size);
