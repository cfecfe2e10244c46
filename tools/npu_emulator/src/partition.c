/* Contexts and columns of the device, counted over all processes that use the same device file.
 *
 * A context is a lock on one byte of that file, taken through an open file of its own: the kernel drops it
 * with the last descriptor, so a process that is killed leaves nothing behind. Beside its lock a context
 * writes which columns it has. Byte ALLOCATION is held while columns are being chosen. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "log.h"
#include "options.h"
#include "partition.h"

enum { MAX_CONTEXTS = 64, ALLOCATION = MAX_CONTEXTS, COLUMNS_AT = 128 };

struct span {
	uint8_t first, columns;
};

static int lock_byte(int descriptor, int command, int byte, short type)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
	int result;
	do
		result = fcntl(descriptor, command, &lock);
	while (result < 0 && errno == EINTR && command == F_OFD_SETLKW);
	if (command == F_OFD_GETLK)
		return result < 0 ? -errno : lock.l_type != F_UNLCK;
	return result < 0 ? -errno : 0;
}

/* The columns of the live contexts, and the first free slot. */
static int read_table(int descriptor, struct span *spans, int *n_spans, int *free_slot)
{
	*n_spans = 0;
	*free_slot = -1;
	for (int slot = 0; slot < (int)options.contexts; slot++) {
		int taken = lock_byte(descriptor, F_OFD_GETLK, slot, F_WRLCK);
		if (taken < 0)
			return taken;
		if (!taken) {
			if (*free_slot < 0)
				*free_slot = slot;
			continue;
		}
		if (pread(descriptor, &spans[*n_spans], sizeof(*spans), COLUMNS_AT + 2 * slot) != sizeof(*spans))
			return -EIO;
		++*n_spans;
	}
	return 0;
}

static unsigned sharers(const struct span *spans, int n_spans, unsigned first, unsigned columns)
{
	unsigned n = 0;
	for (int i = 0; i < n_spans; i++)
		n += spans[i].first < first + columns && first < (unsigned)spans[i].first + spans[i].columns;
	return n;
}

/* As the driver does it: a free range of columns; without one, the least used partition of equal width;
 * without that, ENODEV. */
static int choose_columns(const struct span *spans, int n_spans, unsigned columns, unsigned *first)
{
	unsigned start = options.first_column, least = ~0u;
	if (columns == 0 || columns > options.columns)
		return -EINVAL;
	if (columns == options.columns)
		start = 0;
	for (*first = start; *first + columns <= options.columns; ++*first)
		if (sharers(spans, n_spans, *first, columns) == 0)
			return 0;
	for (int i = 0; i < n_spans; i++) {
		unsigned n = sharers(spans, n_spans, spans[i].first, columns);
		if (spans[i].columns == columns && n < least) {
			least = n;
			*first = spans[i].first;
		}
	}
	return least == ~0u ? -ENODEV : 0;
}

static int take(struct partition *partition, unsigned columns)
{
	struct span spans[MAX_CONTEXTS];
	int n_spans, slot;
	int result = read_table(partition->descriptor, spans, &n_spans, &slot);
	if (result < 0)
		return result;
	if (slot < 0)
		return -options.context_errno;
	result = choose_columns(spans, n_spans, columns, &partition->first_column);
	if (result < 0)
		return result;
	struct span mine = { (uint8_t)partition->first_column, (uint8_t)columns };
	result = lock_byte(partition->descriptor, F_OFD_SETLK, slot, F_WRLCK);
	if (result < 0)
		return result;
	if (pwrite(partition->descriptor, &mine, sizeof(mine), COLUMNS_AT + 2 * slot) != sizeof(mine))
		return -EIO;
	partition->slot = slot;
	partition->columns = columns;
	return 0;
}

int partition_take(struct partition *partition, unsigned columns)
{
	partition->descriptor =
		(int)syscall(SYS_openat, AT_FDCWD, options.device, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (partition->descriptor < 0) {
		complain("WNE_DEVICE=%s: %s", options.device, strerror(errno));
		return -EIO;
	}
	int result = lock_byte(partition->descriptor, F_OFD_SETLKW, ALLOCATION, F_WRLCK);
	if (result == 0) {
		result = take(partition, columns);
		lock_byte(partition->descriptor, F_OFD_SETLK, ALLOCATION, F_UNLCK);
	}
	if (result < 0)
		partition_release(partition);
	return result;
}

void partition_release(struct partition *partition)
{
	syscall(SYS_close, partition->descriptor);
	partition->descriptor = -1;
}
