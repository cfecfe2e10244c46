// What the processor and the system report.
#pragma once

#include <stddef.h>

// Whether the instructions of a variant can be run. Asks the system for the tile registers if they
// are what is meant.
bool has_isa(const char *name);

// The processor's own name for itself, "" if it has none to tell.
void find_cpu_name(char *name, size_t size);
