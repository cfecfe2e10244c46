/* The fake /sys and /dev. */
#pragma once

#define NODE "/dev/accel/accel0"
#define COUNTERS_FILE "/sys/module/amdxdna/emulator/counters"

const char *sysfs_root(void); /* folder that holds the fake /sys and /dev */
