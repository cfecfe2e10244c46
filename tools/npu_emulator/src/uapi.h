/* The part of the amdxdna driver's interface that AMD's user space uses: ioctl numbers, structures, packets.
 *
 * Dispatch goes by the low byte of the request, as in the kernel, so that a shim with a longer or shorter
 * structure is answered too. Offsets are checked at compile time. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum {
	NR_GEM_CLOSE = 0x09,
	NR_CREATE_HWCTX = 0x40,
	NR_DESTROY_HWCTX = 0x41,
	NR_CONFIG_HWCTX = 0x42,
	NR_CREATE_BO = 0x43,
	NR_GET_BO_INFO = 0x44,
	NR_SYNC_BO = 0x45,
	NR_EXEC_CMD = 0x46,
	NR_GET_INFO = 0x47,
	NR_SET_STATE = 0x48,
	NR_WAIT_CMD = 0x49,
	NR_GET_ARRAY = 0x4a,
	NR_SYNCOBJ_CREATE = 0xbf,
	NR_SYNCOBJ_DESTROY = 0xc0,
	NR_SYNCOBJ_TIMELINE_WAIT = 0xca,
};

enum bo_type { BO_SHARE = 1, BO_DEV_HEAP = 2, BO_DEV = 3, BO_CMD = 4 };

/* Device addresses of the heap; its buffers come in granules. */
#define HEAP_ADDRESS 0x4000000ull
#define HEAP_GRANULE 0x8000ull
#define NO_ADDRESS (~0ull)

struct create_hwctx {
	uint64_t ext, ext_flags, qos;
	uint32_t umq_bo, log_buf_bo, max_opc, num_tiles, mem_size, umq_doorbell, handle, syncobj_handle;
};

struct destroy_hwctx {
	uint32_t handle, pad;
};

struct config_hwctx {
	uint32_t handle, param_type;
	uint64_t param_val;
	uint32_t param_val_size, pad;
};

struct config_cu {
	uint16_t num_cus, pad[3];
	struct {
		uint32_t cu_bo;
		uint8_t cu_func, pad[3];
	} cu[];
};

struct create_bo {
	uint64_t flags, vaddr, size;
	uint32_t type, handle;
};

struct get_bo_info {
	uint64_t ext, ext_flags;
	uint32_t handle, pad;
	uint64_t map_offset, vaddr, xdna_addr;
};

struct sync_bo {
	uint32_t handle, direction; /* 0 to the device, 1 from it */
	uint64_t offset, size;
};

struct exec_cmd {
	uint64_t ext, ext_flags;
	uint32_t hwctx, type;
	uint64_t cmd_handles, args;
	uint32_t cmd_count, arg_count;
	uint64_t seq;
};

struct wait_cmd {
	uint32_t hwctx, timeout_ms;
	uint64_t seq;
};

struct get_info {
	uint32_t param, buffer_size;
	uint64_t buffer;
};

struct get_array {
	uint32_t param, element_size, num_element, pad;
	uint64_t buffer;
};

struct gem_close {
	uint32_t handle, pad;
};

struct syncobj_create {
	uint32_t handle, flags;
};

struct syncobj_timeline_wait {
	uint64_t handles, points;
	int64_t timeout_nsec; /* absolute, CLOCK_MONOTONIC */
	uint32_t count, flags, first_signaled, pad;
};

_Static_assert(offsetof(struct create_hwctx, syncobj_handle) == 52, "create_hwctx");
_Static_assert(sizeof(struct create_bo) == 32, "create_bo");
_Static_assert(sizeof(struct get_bo_info) == 48, "get_bo_info");
_Static_assert(sizeof(struct sync_bo) == 24, "sync_bo");
_Static_assert(offsetof(struct exec_cmd, seq) == 48, "exec_cmd");
_Static_assert(offsetof(struct syncobj_timeline_wait, timeout_nsec) == 16, "timeline_wait");

/* Command packets: word 0 is state [3:0], extra cu masks [11:10], words that follow [22:12], opcode [27:23]. */
enum packet_state { STATE_NEW = 1, STATE_COMPLETED = 4, STATE_ERROR = 5, STATE_ABORT = 6, STATE_TIMEOUT = 8 };
enum packet_opcode { OPCODE_START_CU = 0, OPCODE_CHAIN = 19 };

#define PACKET_STATE(header) ((header) & 0xfu)
#define PACKET_EXTRA_MASKS(header) (((header) >> 10) & 0x3u)
#define PACKET_COUNT(header) (((header) >> 12) & 0x7ffu)
#define PACKET_OPCODE(header) (((header) >> 23) & 0x1fu)

#define CHAIN_MAX 24

/* Register map of a kernel of the kind MLIR_AIE, behind the cu mask: byte offsets. */
enum { REG_OPCODE = 0x00, REG_INSTR = 0x08, REG_NINSTR = 0x10, REG_BO0 = 0x14 };
#define KERNEL_TXN 3
