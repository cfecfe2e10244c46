/* Messages, the trace and the counters. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"

struct counters counters;

static const char *stats; /* file of the counters at exit */
static int trace_descriptor = -1;

/* Raw system calls: this library's own open and close are the emulated ones. */
static int open_for_append(const char *path)
{
	if (strcmp(path, "-") == 0)
		return STDERR_FILENO;
	return (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

void log_open(const char *trace_file, const char *counters_file)
{
	stats = counters_file;
	if (!trace_file)
		return;
	trace_descriptor = open_for_append(trace_file);
	if (trace_descriptor < 0)
		complain("WNE_TRACE=%s: %s", trace_file, strerror(errno));
}

bool tracing(void)
{
	return trace_descriptor >= 0;
}

/* One write per line, so that the lines of several processes do not mix. */
static void write_line(int descriptor, const char *prefix, const char *format, va_list arguments)
{
	char line[1024];
	int n = snprintf(line, sizeof(line), "%s", prefix);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, arguments);
	if (n > (int)sizeof(line) - 2)
		n = (int)sizeof(line) - 2;
	line[n++] = '\n';
	if (write(descriptor, line, (size_t)n) < 0)
		trace_descriptor = -1;
}

void complain(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	write_line(STDERR_FILENO, "npu_emulator: ", format, arguments);
	va_end(arguments);
}

void trace(const char *format, ...)
{
	char prefix[32];
	va_list arguments;
	if (trace_descriptor < 0)
		return;
	snprintf(prefix, sizeof(prefix), "[%d] ", getpid());
	va_start(arguments, format);
	write_line(trace_descriptor, prefix, format, arguments);
	va_end(arguments);
}

int counters_text(char *text, size_t size)
{
	const struct counters *c = &counters;
	long long bos = 0, bytes = 0;
	for (int type = BO_SHARE; type <= BO_CMD; type++) {
		bos += c->live[type];
		bytes += c->live_bytes[type];
	}
	return snprintf(
		text, size,
		"{\"pid\": %d, \"bos\": %lld, \"bo_bytes\": %lld, \"host_only_bos\": %lld, \"cacheable_bos\": %lld, "
		"\"command_bos\": %lld, \"heaps\": %lld, \"bo_bytes_peak\": %lld, \"bos_created\": %lld, "
		"\"heap_used_bytes\": %lld, \"contexts\": %lld, \"contexts_created\": %lld, "
		"\"launches\": %lld, \"completed\": %lld, \"failed\": %lld, "
		"\"syncs\": %lld, \"to_device_bytes\": %lld, \"from_device_bytes\": %lld, "
		"\"dma_read_bytes\": %lld, \"dma_written_bytes\": %lld, \"ioctls\": %lld}\n",
		getpid(), bos, bytes, (long long)c->live[BO_SHARE], (long long)c->live[BO_DEV],
		(long long)c->live[BO_CMD], (long long)c->live[BO_DEV_HEAP], (long long)c->peak_bytes,
		(long long)c->created, (long long)c->heap_used, (long long)c->contexts,
		(long long)c->contexts_created, (long long)c->launches, (long long)c->completed,
		(long long)c->failed, (long long)c->sync_calls, (long long)c->to_device_bytes,
		(long long)c->from_device_bytes, (long long)c->dma_read_bytes,
		(long long)c->dma_written_bytes, (long long)c->ioctls);
}

void counters_write(void)
{
	static atomic_flag written = ATOMIC_FLAG_INIT;
	char text[1024];
	/* A process that never touched the device says nothing: a shell in between, say. */
	if (!stats || counters.ioctls == 0 || atomic_flag_test_and_set(&written))
		return;
	int n = counters_text(text, sizeof(text));
	int descriptor = open_for_append(stats);
	if (descriptor < 0 || write(descriptor, text, (size_t)n) != n)
		complain("WNE_STATS=%s: %s", stats, strerror(errno));
	if (descriptor > STDERR_FILENO)
		syscall(SYS_close, descriptor);
}

__attribute__((destructor)) static void counters_at_exit(void)
{
	counters_write();
}
