/* How a launch fails: with a line on stderr, and a mark in the array's state. */
#include <stdarg.h>
#include <stdio.h>

#include "array.h"
#include "log.h"

const char *const directions[] = { "S2MM", "MM2S" };

bool refuse_stream(struct array_state *array, const char *format, ...)
{
	char text[512];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	complain("launch: %s", text);
	array->failed = true;
	return false;
}
