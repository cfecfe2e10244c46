/* Columns and contexts of the device, shared by all processes. */
#pragma once

struct partition {
	int slot, descriptor; /* the lock on byte slot of the device file is the context */
	unsigned first_column, columns;
};

int partition_take(struct partition *partition, unsigned columns); /* 0 or -errno */
void partition_release(struct partition *partition);
