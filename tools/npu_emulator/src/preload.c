/* The system calls that reach a driver: open, close, ioctl and mmap of the device node. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bo.h"
#include "command.h"
#include "driver.h"
#include "log.h"
#include "options.h"
#include "redirect.h"
#include "sysfs.h"

/* A file made on the spot: what is in the counters at this moment. */
static int open_counters(void)
{
	char text[1024];
	int n = counters_text(text, sizeof(text));
	int descriptor = memfd_create("counters", MFD_CLOEXEC);
	if (descriptor >= 0 && (write(descriptor, text, (size_t)n) != n || lseek(descriptor, 0, SEEK_SET) != 0)) {
		syscall(SYS_close, descriptor);
		errno = EIO;
		return -1;
	}
	return descriptor;
}

static int open_node(int flags)
{
	char path[PATH_MAX];
	if (options.presence == NO_PERMISSION) {
		errno = EACCES;
		return -1;
	}
	if (device_lost) {
		errno = ENODEV;
		return -1;
	}
	int descriptor = (int)syscall(SYS_openat, AT_FDCWD, redirected(NODE, path, sizeof(path)), flags, 0);
	if (descriptor >= 0 && !client_open(descriptor)) {
		syscall(SYS_close, descriptor);
		errno = ENOMEM;
		return -1;
	}
	trace("open %s = %d", NODE, descriptor);
	return descriptor;
}

static int open_path(int at, const char *path, int flags, mode_t mode)
{
	char other[PATH_MAX];
	if (path && strcmp(path, COUNTERS_FILE) == 0)
		return open_counters();
	const char *used = redirected(path, other, sizeof(other));
	if (path && strcmp(path, NODE) == 0 && options.presence != NO_DEVICE && options.presence != NO_DRIVER)
		return open_node(flags & ~(O_CREAT | O_TRUNC));
	return (int)syscall(SYS_openat, at, used, flags, mode);
}

static mode_t mode_argument(int flags, va_list arguments)
{
	return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

#define OPEN_FUNCTION(name, parameters, at)                               \
	int name parameters                                               \
	{                                                                 \
		va_list arguments;                                        \
		va_start(arguments, flags);                               \
		mode_t mode = mode_argument(flags, arguments);            \
		va_end(arguments);                                        \
		return open_path(at, path, flags, mode);                  \
	}

OPEN_FUNCTION(open, (const char *path, int flags, ...), AT_FDCWD)
OPEN_FUNCTION(open64, (const char *path, int flags, ...), AT_FDCWD)
OPEN_FUNCTION(openat, (int at, const char *path, int flags, ...), at)
OPEN_FUNCTION(openat64, (int at, const char *path, int flags, ...), at)

int close(int descriptor)
{
	client_close(descriptor);
	return (int)syscall(SYS_close, descriptor);
}

int ioctl(int descriptor, unsigned long request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	struct client *client = client_find(descriptor);
	if (!client)
		return (int)syscall(SYS_ioctl, descriptor, request, argument);
	int result = driver_ioctl(client, request, argument);
	if (result >= 0)
		return result;
	errno = -result;
	return -1;
}

static void *map(void *address, size_t length, int protection, int flags, int descriptor, off_t offset)
{
	struct client *client = descriptor >= 0 ? client_find(descriptor) : NULL;
	if (!client)
		return (void *)syscall(SYS_mmap, address, length, protection, flags, descriptor, offset);
	pthread_mutex_lock(&driver_lock);
	void *result = bo_mmap(&client->bos, address, length, flags, (uint64_t)offset);
	pthread_mutex_unlock(&driver_lock);
	if ((intptr_t)result >= 0 || (intptr_t)result < -4095)
		return result;
	errno = -(int)(intptr_t)result;
	return MAP_FAILED;
}

void *mmap(void *address, size_t length, int protection, int flags, int descriptor, off_t offset)
{
	return map(address, length, protection, flags, descriptor, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int descriptor, off64_t offset)
{
	return map(address, length, protection, flags, descriptor, offset);
}

/* The limit on locked memory is an option: a program that looks at it has to see the one that counts. */
int getrlimit(__rlimit_resource_t resource, struct rlimit *limit)
{
	if (resource != RLIMIT_MEMLOCK)
		return (int)syscall(SYS_prlimit64, 0, resource, NULL, limit);
	limit->rlim_cur = limit->rlim_max = options.memlock_bytes; /* UINT64_MAX is RLIM_INFINITY */
	return 0;
}

int getrlimit64(__rlimit_resource_t resource, struct rlimit64 *limit)
{
	return getrlimit(resource, (struct rlimit *)limit);
}

/* os._exit() is the only clean end with a hung kernel; its counters are wanted too. */
void _exit(int status)
{
	counters_write();
	for (;;)
		syscall(SYS_exit_group, status);
}

void _Exit(int status)
{
	_exit(status);
}
