/* Paths of the device; redirect.c stands in for libc's look-ups of them too. */
#pragma once

#include <stddef.h>

/* The path to use instead of path: path itself, or one in the fake tree, in buffer. */
const char *redirected(const char *path, char *buffer, size_t size);
