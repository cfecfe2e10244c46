/* What the environment asks for. See ../README.md for what the emulated amdxdna driver does. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum presence { PRESENT, NO_DEVICE, NO_DRIVER, NO_PERMISSION };
enum fault_kind { FAULT_NONE, FAULT_ERROR, FAULT_ABORT, FAULT_TIMEOUT, FAULT_HANG, FAULT_ENODEV };

struct fault {
	uint64_t first, last; /* launches of this process, counted from 1 */
	enum fault_kind kind;
};

struct options {
	enum presence presence;
	bool strict;          /* device memory is a separate copy */
	bool syncobj;         /* contexts have a syncobj; otherwise WAIT_CMD is used */
	bool fill_failed;     /* a failed packet's payload becomes 0xff */
	bool evict_breaks;    /* destroying one context breaks the others of the process */
	uint64_t memlock_bytes; /* RLIMIT_MEMLOCK, for root too; UINT64_MAX: none */
	unsigned contexts;    /* at most so many, over all processes */
	int context_errno;    /* for one too many */
	unsigned columns, first_column;
	uint64_t heap_bytes;  /* what buffers may take of the heap */
	int heap_errno;       /* when it is full */
	unsigned latency_us;  /* of a launch */
	unsigned tdr_ms;      /* a hung command ends after so long; 0: never */
	struct fault faults[16];
	unsigned n_faults;
	const char *home;     /* folder of the fake sysfs */
	const char *device;   /* file shared by the processes that use one device */
	const char *pci_address, *pci_id, *revision, *vbnv, *firmware, *driver_version;
};

extern struct options options;

enum fault_kind fault_of_launch(uint64_t launch);
