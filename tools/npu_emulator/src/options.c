/* Options: environment variables WNE_*, set by hand or by the wrapper `run`. A value that cannot be
 * understood ends the process: a test that meant to inject a fault must not pass without it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"
#include "options.h"

struct options options;

static void refuse(const char *name, const char *value, const char *expected)
{
	fprintf(stderr, "npu_emulator: %s=%s: %s expected\n", name, value, expected);
	syscall(SYS_exit_group, 2); /* _exit() leads back into this library */
}

static const char *text(const char *name, const char *missing)
{
	const char *value = getenv(name);
	return value && *value ? value : missing;
}

static uint64_t number(const char *name, uint64_t missing, uint64_t limit)
{
	const char *value = text(name, NULL);
	char *end;
	if (!value)
		return missing;
	errno = 0;
	unsigned long long result = strtoull(value, &end, 0);
	if (errno || *end || *value == '-' || result > limit)
		refuse(name, value, "a number");
	return result;
}

static bool flag(const char *name, bool missing)
{
	return number(name, missing, 1) != 0;
}

static const struct {
	const char *name;
	int code;
} errnos[] = {
	{ "ENOENT", ENOENT }, { "EAGAIN", EAGAIN }, { "ENOMEM", ENOMEM }, { "EBUSY", EBUSY },
	{ "ENODEV", ENODEV }, { "EINVAL", EINVAL }, { "ENOSPC", ENOSPC },
};

static int errno_of(const char *name, int missing)
{
	const char *value = text(name, NULL);
	if (!value)
		return missing;
	for (size_t i = 0; i < sizeof(errnos) / sizeof(*errnos); i++)
		if (strcmp(errnos[i].name, value) == 0)
			return errnos[i].code;
	refuse(name, value, "ENOENT, EAGAIN, ENOMEM, EBUSY, ENODEV, EINVAL or ENOSPC");
	return missing;
}

static enum presence presence_of(const char *name)
{
	static const char *const names[] = { "present", "none", "no-driver", "no-permission" };
	const char *value = text(name, names[0]);
	for (int i = 0; i < 4; i++)
		if (strcmp(names[i], value) == 0)
			return (enum presence)i;
	refuse(name, value, "present, none, no-driver or no-permission");
	return PRESENT;
}

static enum fault_kind fault_kind_of(const char *name)
{
	static const char *const names[] = { "error", "abort", "timeout", "hang", "enodev" };
	for (int i = 0; i < 5; i++)
		if (strcasecmp(names[i], name) == 0)
			return (enum fault_kind)(FAULT_ERROR + i);
	return FAULT_NONE;
}

/* "3:error,5-7:abort,9-:hang": launches of this process, counted from 1. */
static void parse_faults(const char *name)
{
	const char *value = text(name, NULL);
	if (!value)
		return;
	char *copy = strdup(value), *rest = copy, *item;
	while (copy && (item = strsep(&rest, ","))) {
		struct fault fault;
		char *end;
		if (options.n_faults == sizeof(options.faults) / sizeof(*options.faults))
			refuse(name, value, "at most 16 faults");
		fault.first = fault.last = strtoull(item, &end, 10);
		if (*end == '-') {
			const char *last = end + 1;
			fault.last = strtoull(last, &end, 10);
			if (end == last)
				fault.last = UINT64_MAX;
		}
		fault.kind = *end == ':' ? fault_kind_of(end + 1) : FAULT_NONE;
		if (fault.kind == FAULT_NONE || fault.first == 0 || fault.last < fault.first)
			refuse(name, value, "N:KIND, N-M:KIND or N-:KIND (error, abort, timeout, hang, enodev)");
		options.faults[options.n_faults++] = fault;
	}
	free(copy);
}

enum fault_kind fault_of_launch(uint64_t launch)
{
	for (unsigned i = 0; i < options.n_faults; i++)
		if (launch >= options.faults[i].first && launch <= options.faults[i].last)
			return options.faults[i].kind;
	return FAULT_NONE;
}

__attribute__((constructor(101))) static void read_options(void)
{
	struct options *o = &options;
	o->pci_id = text("WNE_PCI_ID", "0x1502");
	bool phoenix = strcmp(o->pci_id, "0x1502") == 0;
	o->presence = presence_of("WNE_PRESENCE");
	o->strict = flag("WNE_STRICT", true);
	o->syncobj = flag("WNE_SYNCOBJ", true);
	o->fill_failed = flag("WNE_FILL_FAILED", true);
	o->evict_breaks = flag("WNE_EVICT_BREAKS", false);
	uint64_t memlock = number("WNE_MEMLOCK_KIB", UINT64_MAX, UINT64_MAX);
	o->memlock_bytes = memlock > UINT64_MAX >> 10 ? UINT64_MAX : memlock << 10;
	o->contexts = (unsigned)number("WNE_CONTEXTS", phoenix ? 6 : 16, 64);
	o->context_errno = errno_of("WNE_CONTEXT_ERRNO", ENOSPC);
	o->columns = (unsigned)number("WNE_COLUMNS", phoenix ? 5 : 8, 32);
	o->first_column = phoenix ? 1 : 0;
	o->heap_bytes = number("WNE_HEAP_KIB", 64 << 10, 64 << 10) << 10;
	o->heap_errno = errno_of("WNE_HEAP_ERRNO", EAGAIN);
	o->latency_us = (unsigned)number("WNE_LATENCY_US", 0, 100000000);
	o->tdr_ms = (unsigned)number("WNE_TDR_MS", 0, 100000000);
	parse_faults("WNE_FAULTS");
	o->home = text("WNE_HOME", "/tmp");
	o->device = text("WNE_DEVICE", "/tmp/npu-emulator.device");
	o->pci_address = text("WNE_PCI_ADDRESS", "0000:c5:00.1");
	o->revision = text("WNE_REVISION", "0x00");
	o->vbnv = text("WNE_VBNV", phoenix ? "RyzenAI-npu1" : "RyzenAI-npu4");
	o->firmware = text("WNE_FIRMWARE", "1.5.5.391");
	o->driver_version = text("WNE_DRIVER_VERSION", "2.25.0_20260831,0123456789abcdef");
	/* XRT keeps caches coherent in user space unless told to ask the driver. */
	if (o->strict)
		setenv("Debug.force_driver_sync", "true", 1);
	log_open(text("WNE_TRACE", NULL), text("WNE_STATS", NULL));
}
