#include "isa.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__x86_64__)
namespace {

struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
  explicit Leaf(unsigned number) { __get_cpuid_count(number, 0, &a, &b, &c, &d); }
};

bool bit(unsigned word, int number) { return (word >> number & 1) != 0; }

// The registers that the system saves for a process: bit 1 SSE, 2 AVX, 5 to 7 AVX-512, 17 and 18
// tiles.
uint64_t saved_registers() {
  if (!bit(Leaf(1).c, 27)) return 0;
  unsigned low, high;
  // xgetbv, spelt so that no option is needed for it.
  asm volatile(".byte 0x0f, 0x01, 0xd0" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

bool saves(uint64_t registers) { return (saved_registers() & registers) == registers; }

}  // namespace

bool has_avx2() {
  // FMA, halves, AVX, AVX2.
  return saves(0x6) && bit(Leaf(1).c, 12) && bit(Leaf(1).c, 29) && bit(Leaf(1).c, 28) &&
         bit(Leaf(7).b, 5);
}

bool has_avx512() {
  const unsigned b = Leaf(7).b;
  // F, DQ, BW, VL.
  return has_avx2() && saves(0xe6) && bit(b, 16) && bit(b, 17) && bit(b, 30) && bit(b, 31);
}

bool has_avx512_vnni() { return has_avx512() && bit(Leaf(7).c, 11); }

bool has_amx() {
  // TILE and INT8.
  if (!has_avx512_vnni() || !saves(0x60000) || !bit(Leaf(7).d, 24) || !bit(Leaf(7).d, 25))
    return false;
#if defined(__linux__)
  // The system makes room for tile data only for who asks: ARCH_REQ_XCOMP_PERM, feature 18.
  static const bool permitted = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return permitted;
#else
  return false;
#endif
}
#elif defined(__aarch64__)
bool has_dotprod() {
#if defined(__linux__)
  // HWCAP_ASIMDDP.
  return (getauxval(AT_HWCAP) >> 20 & 1) != 0;
#elif defined(__APPLE__)
  int found = 0;
  size_t size = sizeof found;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, nullptr, 0) == 0 && found;
#else
  return false;
#endif
}
#endif

bool has_scalar() { return true; }

void find_cpu_name(char *name, size_t size) {
  name[0] = '\0';
#if defined(__x86_64__)
  unsigned words[12];
  if (Leaf(0x80000000u).a < 0x80000004u) return;
  for (unsigned i = 0; i < 3; ++i) {
    const Leaf leaf(0x80000002u + i);
    const unsigned part[4] = {leaf.a, leaf.b, leaf.c, leaf.d};
    memcpy(words + 4 * i, part, sizeof part);
  }
  // Family, model and stepping too: two processors of one name may differ.
  snprintf(name, size, "%.*s (%08x)", static_cast<int>(sizeof words),
           reinterpret_cast<const char *>(words), Leaf(1).a);
#else
  (void)size;
#endif
}
