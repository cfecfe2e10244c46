// The instruction sets that kernels are compiled for, those of one processor from the plainest to
// the best: X(name, floats, options). ``name`` is that of the variant of fixed_point.cc, of its
// has_name() in isa.cc, and what WHISPER_NPU_CPU_ISA takes. ``floats`` is the set whose variants of
// floats.cc and integer_attention.cc it uses: its own, or one before it where its own would gain
// nothing. ``options`` are the compiler's. whisper_npu/backends/cpu/isas.py reads this file too: it
// has to keep this form.
#pragma once

#define ISAS_EVERYWHERE(X) \
  X(scalar, scalar, "")

#define ISAS_AARCH64(X) \
  X(dotprod, scalar, "-march=armv8.2-a+dotprod")

#define ISAS_X86_64(X) \
  X(avx2, avx2, "-mavx2 -mfma") \
  X(avx512, avx512, \
    "-mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512") \
  X(avx512_vnni, avx512_vnni, \
    "-mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512 " \
    "-mavx512vnni") \
  X(amx, avx512_vnni, \
    "-mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512 " \
    "-mavx512vnni -mamx-tile -mamx-int8")

#if defined(__x86_64__)
#define ISAS(X) ISAS_EVERYWHERE(X) ISAS_X86_64(X)
#elif defined(__aarch64__)
#define ISAS(X) ISAS_EVERYWHERE(X) ISAS_AARCH64(X)
#else
#define ISAS(X) ISAS_EVERYWHERE(X)
#endif
