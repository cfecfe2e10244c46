/* The files through which user space finds the device: a small tree on disk that stands in for /sys and
 * /dev. It is made once for each set of contents and stays, so that processes can share it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"
#include "options.h"
#include "sysfs.h"

static char root[512];

const char *sysfs_root(void)
{
	return root;
}

/* These run in the constructor and call the kernel directly: libc's names lead back into this library. */
static void make_parents(char *path)
{
	for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		syscall(SYS_mkdirat, AT_FDCWD, path, 0777);
		*slash = '/';
	}
}

static bool put(const char *tree, const char *path, const char *content)
{
	char full[1024];
	snprintf(full, sizeof(full), "%s%s", tree, path);
	make_parents(full);
	int descriptor = (int)syscall(SYS_openat, AT_FDCWD, full, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	if (descriptor < 0)
		return false;
	bool done = write(descriptor, content, strlen(content)) == (ssize_t)strlen(content);
	syscall(SYS_close, descriptor);
	return done;
}

static bool put_line(const char *tree, const char *folder, const char *name, const char *content)
{
	char path[512], line[512];
	snprintf(path, sizeof(path), "%s/%s", folder, name);
	snprintf(line, sizeof(line), "%s\n", content);
	return put(tree, path, line);
}

static bool put_link(const char *tree, const char *path, const char *target)
{
	char full[1024];
	snprintf(full, sizeof(full), "%s%s", tree, path);
	make_parents(full);
	return syscall(SYS_symlinkat, target, AT_FDCWD, full) == 0;
}

static bool build(const char *tree)
{
	const struct options *o = &options;
	char device[128], path[512], target[512];
	bool done = true;

	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/", tree);
	make_parents(path);
	if (o->presence == NO_DEVICE)
		return true;

	snprintf(device, sizeof(device), "/sys/devices/pci0000:00/0000:00:08.2/%s", o->pci_address);
	done &= put_line(tree, device, "device", o->pci_id);
	done &= put_line(tree, device, "revision", o->revision);
	done &= put_line(tree, device, "vendor", "0x1022");
	done &= put_line(tree, device, "class", "0x118000");
	done &= put_line(tree, device, "subsystem_vendor", "0x1022");
	done &= put_line(tree, device, "subsystem_device", o->pci_id);
	done &= put_line(tree, device, "current_link_speed", "16.0 GT/s PCIe");
	done &= put_line(tree, device, "max_link_speed", "16.0 GT/s PCIe");
	done &= put_line(tree, device, "current_link_width", "16");
	done &= put_line(tree, device, "max_link_width", "16");
	done &= put_line(tree, device, "resource", "0x0 0x0 0x0");
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", o->pci_address);
	snprintf(target, sizeof(target), "../../..%s", device + strlen("/sys"));
	done &= put_link(tree, path, target);
	if (o->presence == NO_DRIVER)
		return done;

	done &= put_line(tree, device, "device_type", "0");
	done &= put_line(tree, device, "vbnv", o->vbnv);
	done &= put_line(tree, device, "fw_version", o->firmware);
	done &= put_line(tree, device, "accel/accel0/dev", "261:0");
	snprintf(path, sizeof(path), "%s/accel/accel0/device", device);
	done &= put_link(tree, path, "../..");
	snprintf(path, sizeof(path), "%s/driver", device);
	done &= put_link(tree, path, "../../../../bus/pci/drivers/amdxdna");
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/amdxdna/%s", o->pci_address);
	snprintf(target, sizeof(target), "../../../..%s", device + strlen("/sys"));
	done &= put_link(tree, path, target);
	snprintf(target, sizeof(target), "../..%s/accel/accel0", device + strlen("/sys"));
	done &= put_link(tree, "/sys/class/accel/accel0", target);
	done &= put_line(tree, "/sys/module/amdxdna", "version", o->driver_version);
	done &= put(tree, NODE, "");
	done &= put(tree, COUNTERS_FILE, "");
	return done;
}

/* FNV-1a over what the tree is made of. */
static uint64_t digest(void)
{
	const struct options *o = &options;
	char key[1024];
	uint64_t hash = 0xcbf29ce484222325ull;
	snprintf(key, sizeof(key), "2 %d %s %s %s %s %s %s", (int)o->presence, o->pci_address, o->pci_id,
		 o->revision, o->vbnv, o->firmware, o->driver_version);
	for (const char *c = key; *c; c++)
		hash = (hash ^ (uint8_t)*c) * 0x100000001b3ull;
	return hash;
}

__attribute__((constructor(102))) static void find_tree(void)
{
	char fresh[600];
	snprintf(root, sizeof(root), "%s/sysfs/%016llx", options.home, (unsigned long long)digest());
	if (syscall(SYS_faccessat, AT_FDCWD, root, F_OK) == 0)
		return;
	/* Built aside and renamed, so that no process sees half of it; another one may be first. */
	snprintf(fresh, sizeof(fresh), "%s.%d/", root, getpid());
	make_parents(fresh);
	fresh[strlen(fresh) - 1] = '\0';
	if (!build(fresh)) {
		complain("cannot write the fake sysfs %s: %s", fresh, strerror(errno));
		syscall(SYS_exit_group, 2);
	}
	if (syscall(SYS_renameat, AT_FDCWD, fresh, AT_FDCWD, root) != 0 && errno != EEXIST && errno != ENOTEMPTY)
		complain("cannot rename %s: %s", fresh, strerror(errno));
}
