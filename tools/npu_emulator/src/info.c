/* What the device says of itself: GET_INFO and GET_ARRAY. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "info.h"
#include "options.h"

enum {
	INFO_AIE_METADATA = 1,
	INFO_AIE_VERSION = 2,
	INFO_CLOCK = 3,
	INFO_SENSORS = 4,
	INFO_HW_CONTEXTS = 5,
	INFO_FIRMWARE_VERSION = 8,
	INFO_POWER_MODE = 9,
	INFO_RESOURCES = 12,
};
enum { ARRAY_CONTEXTS = 0, ARRAY_CONTEXT_BY_ID = 1, ARRAY_LAST_ERROR = 2, ARRAY_BO_USAGE = 6 };

struct tile_rows {
	uint16_t row_count, row_start, dma_channels, locks, events, pad[3];
};

struct aie_metadata {
	uint32_t column_bytes;
	uint16_t columns, rows;
	uint32_t major, minor;
	struct tile_rows core, memory, shim;
};

_Static_assert(sizeof(struct aie_metadata) == 64, "aie_metadata");

struct clock {
	char name[16];
	uint32_t mhz, pad;
};

/* As the driver: as much as fits; a buffer that is too small for the whole is an error. */
static int answer(const struct get_info *argument, const void *data, size_t size)
{
	if (argument->buffer_size < size)
		return -EINVAL;
	memcpy((void *)(uintptr_t)argument->buffer, data, size);
	return 0;
}

static int metadata(const struct get_info *argument)
{
	struct aie_metadata data = {
		.column_bytes = 1 << 25,
		.columns = (uint16_t)options.columns,
		.rows = 6,
		.major = 2,
		.core = { 4, 2, 2, 16, 16, { 0 } },
		.memory = { 1, 1, 6, 64, 16, { 0 } },
		.shim = { 1, 0, 2, 16, 16, { 0 } },
	};
	return answer(argument, &data, sizeof(data));
}

static int firmware(const struct get_info *argument)
{
	uint32_t version[4] = { 0 };
	sscanf(options.firmware, "%u.%u.%u.%u", &version[0], &version[1], &version[2], &version[3]);
	return answer(argument, version, sizeof(version));
}

static int clocks(const struct get_info *argument)
{
	struct clock data[2] = { { "MP-NPU Clock", 400, 0 }, { "H Clock", 800, 0 } };
	return answer(argument, data, sizeof(data));
}

static int resources(const struct client *client, const struct get_info *argument)
{
	uint64_t n = 0;
	for (const struct context *context = client->contexts; context; context = context->next)
		n++;
	/* highest clock, highest TOPS, most contexts, TOPS and contexts at present */
	uint64_t data[5] = { 1600, 10, options.contexts, 10, n };
	return answer(argument, data, sizeof(data));
}

int info_get(const struct client *client, const struct get_info *argument)
{
	static const uint32_t version[2] = { 2, 0 };
	switch (argument->param) {
	case INFO_AIE_METADATA:
		return metadata(argument);
	case INFO_AIE_VERSION:
		return answer(argument, version, sizeof(version));
	case INFO_CLOCK:
		return clocks(argument);
	case INFO_FIRMWARE_VERSION:
		return firmware(argument);
	case INFO_RESOURCES:
		return resources(client, argument);
	case INFO_SENSORS:
	case INFO_HW_CONTEXTS:
	case INFO_POWER_MODE: /* nothing to report: zeros */
		memset((void *)(uintptr_t)argument->buffer, 0, argument->buffer_size);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

int info_array(struct get_array *argument)
{
	switch (argument->param) {
	case ARRAY_CONTEXTS:
	case ARRAY_CONTEXT_BY_ID:
	case ARRAY_LAST_ERROR:
	case ARRAY_BO_USAGE:
		argument->num_element = 0;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}
