/* Path look-ups under /sys and /dev that concern the device go to the fake tree: the functions of libc
 * through which libstdc++, boost and Python look at files. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "options.h"
#include "redirect.h"
#include "sysfs.h"

#define REAL(name)                                                     \
	static __typeof__(name) *real;                                 \
	if (!real)                                                     \
		real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static const char *const redirected_folders[] = {
	"/sys/bus/pci", "/sys/devices/pci", "/sys/module/amdxdna", "/sys/class/accel", "/dev/accel",
};

const char *redirected(const char *path, char *buffer, size_t size)
{
	if (!path || path[0] != '/' || (path[1] != 's' && path[1] != 'd'))
		return path;
	for (size_t i = 0; i < sizeof(redirected_folders) / sizeof(*redirected_folders); i++)
		if (strncmp(path, redirected_folders[i], strlen(redirected_folders[i])) == 0) {
			if ((size_t)snprintf(buffer, size, "%s%s", sysfs_root(), path) >= size)
				return path;
			return buffer;
		}
	return path;
}

/* The node is an ordinary file in the tree; it has to look like the character device it stands for. */
static bool is_node(const char *path)
{
	return path && strcmp(path, NODE) == 0;
}

static mode_t node_mode(void)
{
	return S_IFCHR | (options.presence == NO_PERMISSION ? 0600 : 0666);
}

static int as_node(const char *path, int result, struct stat *status)
{
	if (result == 0 && is_node(path)) {
		status->st_mode = node_mode();
		status->st_rdev = makedev(261, 0);
	}
	return result;
}

#define PATH_FUNCTION(name, parameters, before, after, status)                     \
	int name parameters                                                        \
	{                                                                          \
		REAL(name);                                                        \
		char other[PATH_MAX];                                              \
		return as_node(path, real(before redirected(path, other, sizeof(other)) after), (struct stat *)(status)); \
	}
#define COMMA ,

/* On this architecture struct stat64 is struct stat. */
PATH_FUNCTION(stat, (const char *restrict path, struct stat *restrict status), , COMMA status, status)
PATH_FUNCTION(lstat, (const char *restrict path, struct stat *restrict status), , COMMA status, status)
PATH_FUNCTION(stat64, (const char *restrict path, struct stat64 *restrict status), , COMMA status, status)
PATH_FUNCTION(lstat64, (const char *restrict path, struct stat64 *restrict status), , COMMA status, status)
PATH_FUNCTION(fstatat, (int at, const char *restrict path, struct stat *restrict status, int flags), at COMMA,
	      COMMA status COMMA flags, status)
PATH_FUNCTION(fstatat64, (int at, const char *restrict path, struct stat64 *restrict status, int flags), at COMMA,
	      COMMA status COMMA flags, status)

int statx(int at, const char *restrict path, int flags, unsigned mask, struct statx *restrict status)
{
	REAL(statx);
	char other[PATH_MAX];
	int result = real(at, redirected(path, other, sizeof(other)), flags, mask, status);
	if (result == 0 && is_node(path)) {
		status->stx_mode = (uint16_t)node_mode();
		status->stx_rdev_major = 261;
		status->stx_rdev_minor = 0;
	}
	return result;
}

static bool forbidden(const char *path, int mode)
{
	if (options.presence != NO_PERMISSION || !is_node(path) || mode == F_OK)
		return false;
	errno = EACCES;
	return true;
}

int access(const char *path, int mode)
{
	REAL(access);
	char other[PATH_MAX];
	return forbidden(path, mode) ? -1 : real(redirected(path, other, sizeof(other)), mode);
}

int faccessat(int at, const char *path, int mode, int flags)
{
	REAL(faccessat);
	char other[PATH_MAX];
	return forbidden(path, mode) ? -1 : real(at, redirected(path, other, sizeof(other)), mode, flags);
}

DIR *opendir(const char *path)
{
	REAL(opendir);
	char other[PATH_MAX];
	return real(redirected(path, other, sizeof(other)));
}

ssize_t readlink(const char *restrict path, char *restrict target, size_t size)
{
	REAL(readlink);
	char other[PATH_MAX];
	return real(redirected(path, other, sizeof(other)), target, size);
}

ssize_t readlinkat(int at, const char *restrict path, char *restrict target, size_t size)
{
	REAL(readlinkat);
	char other[PATH_MAX];
	return real(at, redirected(path, other, sizeof(other)), target, size);
}

/* Real paths come back without the root of the tree: XRT wants /sys/devices/... */
char *realpath(const char *restrict path, char *restrict resolved)
{
	REAL(realpath);
	char other[PATH_MAX];
	const char *used = redirected(path, other, sizeof(other));
	char *result = real(used, resolved);
	size_t n = strlen(sysfs_root());
	if (result && used == other && strncmp(result, sysfs_root(), n) == 0)
		memmove(result, result + n, strlen(result + n) + 1);
	return result;
}

FILE *fopen(const char *restrict path, const char *restrict mode)
{
	REAL(fopen);
	char other[PATH_MAX];
	return real(redirected(path, other, sizeof(other)), mode);
}

FILE *fopen64(const char *restrict path, const char *restrict mode)
{
	REAL(fopen64);
	char other[PATH_MAX];
	return real(redirected(path, other, sizeof(other)), mode);
}
