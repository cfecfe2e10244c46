// The log-mel front end in integers, as whisper_npu/ops/mel_int.py specifies it and proves the
// widths of all numbers. They are whole numbers in doubles, so that sums have one result in any
// order; transforms add up what has the same cosine before they multiply.
#include <string.h>

#include "variant.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

// Frames side by side.
#if defined(__AVX512F__)
constexpr int kLanes = 8;
#elif defined(__AVX2__)
constexpr int kLanes = 4;
#else
constexpr int kLanes = 2;
#endif

typedef double Lanes __attribute__((vector_size(8 * kLanes)));
typedef float Narrow __attribute__((vector_size(4 * kLanes)));

inline Lanes all(double x) { return x - Lanes{}; }

inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX512F__)
  return (Lanes)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__)
  return (Lanes)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
  return (Lanes)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

// To the nearest integer, halves to even: sums with this have no bits behind the point.
constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
inline Lanes rounded(Lanes x) { return (x + kRound) - kRound; }

constexpr int kFrame = 400, kHop = 160, kShort = 16, kLong = 25, kBins = kFrame / 2 + 1;
constexpr int kShortWaves = kShort / 2 + 1, kLongWaves = kLong / 2 + 1;
// Different cosines of a transform of 25 but for the first.
constexpr int kFolded = kLong / 2;
constexpr int kSampleBits = 22, kFilterBits = 20;
constexpr double kWave = 1.0 / (1 << 22), kSpectrum = 1.0 / (1 << 26), kHalf = 1 << 26;

// The tables in all lanes; of the transforms only what is multiplied.
struct Tables {
  Lanes window[kFrame];
  // Cosines and sines of an even and of an odd number of periods.
  Lanes cos_even[5][5], cos_odd[4][4], sin_even[3][3], sin_odd[4][4];
  Lanes cos_long[kLongWaves][kFolded], sin_long[kLongWaves][kFolded];

  explicit Tables(const LogMelInt16 &a) {
    for (int i = 0; i < kFrame; ++i) window[i] = all(a.window[i] * kWave);
    const auto cosine = [&](int k, int n) { return all(a.short_waves[k * kShort + n] * kWave); };
    const auto sine = [&](int k, int n) { return cosine(kShortWaves + k, n); };
    for (int k = 0; k < 5; ++k)
      for (int n = 0; n < 5; ++n) cos_even[k][n] = cosine(2 * k, n);
    for (int k = 0; k < 4; ++k)
      for (int n = 0; n < 4; ++n) {
        cos_odd[k][n] = cosine(2 * k + 1, n);
        sin_odd[k][n] = sine(2 * k + 1, n + 1);
      }
    for (int k = 0; k < 3; ++k)
      for (int n = 0; n < 3; ++n) sin_even[k][n] = sine(2 * k + 2, n + 1);
    for (int k = 0; k < kLongWaves; ++k)
      for (int n = 0; n < kFolded; ++n) {
        cos_long[k][n] = all(a.long_waves[k * kLong + n + 1] * kSpectrum);
        sin_long[k][n] = all(a.long_waves[(kLongWaves + k) * kLong + n + 1] * kSpectrum);
      }
  }
};

// out[k * stride] = the sum over n of waves[k][n] * x[n], rounded.
template <int N>
inline void multiply(const Lanes (&waves)[N][N], const Lanes *x, Lanes *out, int stride) {
  UNROLL
  for (int k = 0; k < N; ++k) {
    Lanes sum = x[0] * waves[k][0];
    UNROLL
    for (int n = 1; n < N; ++n) sum = multiply_add(x[n], waves[k][n], sum);
    out[k * stride] = rounded(sum);
  }
}

// 16 windowed samples -> cosines of 0 to 8 periods, then sines of 1 to 7, kLong apart.
inline void transform_short(const Tables &tables, const Lanes *x, Lanes *out) {
  Lanes even[kShort / 2 + 1], odd[kShort / 2];
  even[0] = x[0] + x[8];
  even[8] = x[0] - x[8];
  UNROLL
  for (int n = 1; n < 8; ++n) {
    even[n] = x[n] + x[kShort - n];
    odd[n] = x[n] - x[kShort - n];
  }
  const Lanes sums[5] = {even[0], even[1] + even[7], even[2] + even[6], even[3] + even[5], even[4]};
  const Lanes differences[4] = {even[8], even[1] - even[7], even[2] - even[6], even[3] - even[5]};
  multiply(tables.cos_even, sums, out, 2 * kLong);
  multiply(tables.cos_odd, differences, out + kLong, 2 * kLong);
  Lanes *sines = out + kShortWaves * kLong;
  const Lanes odd_sums[4] = {odd[1] + odd[7], odd[2] + odd[6], odd[3] + odd[5], odd[4]};
  const Lanes odd_differences[3] = {odd[1] - odd[7], odd[2] - odd[6], odd[3] - odd[5]};
  multiply(tables.sin_odd, odd_sums, sines, 2 * kLong);
  multiply(tables.sin_even, odd_differences, sines + kLong, 2 * kLong);
}

// 25 numbers -> cosines and sines of 0 to 12 periods, in units of 2^26, with what is behind the
// point.
inline void transform_long(const Tables &tables, const Lanes *x, Lanes *cosines, Lanes *sines) {
  Lanes even[kFolded], odd[kFolded];
  UNROLL
  for (int n = 0; n < kFolded; ++n) {
    even[n] = x[n + 1] + x[kLong - 1 - n];
    odd[n] = x[n + 1] - x[kLong - 1 - n];
  }
  const Lanes first = x[0] * (kSpectrum / kWave);
  for (int k = 0; k < kLongWaves; ++k) {
    Lanes sum = first, other = {};
    UNROLL
    for (int n = 0; n < kFolded; n += 2) {
      sum = multiply_add(even[n], tables.cos_long[k][n], sum);
      other = multiply_add(even[n + 1], tables.cos_long[k][n + 1], other);
    }
    cosines[k] = sum + other;
  }
  sines[0] = Lanes{};
  for (int k = 1; k < kLongWaves; ++k) {
    Lanes sum = {}, other = {};
    UNROLL
    for (int n = 0; n < kFolded; n += 2) {
      sum = multiply_add(odd[n], tables.sin_long[k][n], sum);
      other = multiply_add(odd[n + 1], tables.sin_long[k][n + 1], other);
    }
    sines[k] = sum + other;
  }
}

// Powers in two halves: upper * 2^26 + lower.
struct Spectrum {
  Lanes upper[kBins], lower[kBins];

  void set(int bin, Lanes real, Lanes imaginary) {
    real = rounded(real);
    imaginary = rounded(imaginary);
    const Lanes power = real * real + imaginary * imaginary;
    upper[bin] = rounded(power * (1 / kHalf));
    lower[bin] = power - upper[bin] * kHalf;
  }
};

// The bin in which a transform of 16 has ``k`` periods and one of 25 has ``n``, or one of as much
// power: 225 is 1 in 16 and 0 in 25, 176 is 0 and 1.
inline int bin_of(int k, int n) {
  const int bin = (225 * k + 176 * (n + kLong)) % kFrame;
  return bin < kBins ? bin : kFrame - bin;
}

inline int exponent_of(const float *frame) {
  int32_t largest = 0;
  for (int i = 0; i < kFrame; ++i) {
    int32_t bits;
    memcpy(&bits, frame + i, sizeof bits);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  constexpr int kLeast = -100;
  const int exponent = (largest >> 23) - 126;
  return exponent > kLeast ? exponent : kLeast;
}

// The samples of a frame as integers, at every kLanes-th float from ``out``.
inline void scale(const float *frame, int exponent, float *out) {
  const int32_t bits = (kSampleBits - exponent + 127) << 23;
  constexpr float kRoundFloat = 12582912.0f;  // 1.5 * 2^23
  float factor, row[kFrame];
  memcpy(&factor, &bits, sizeof factor);
  for (int i = 0; i < kFrame; ++i) row[i] = (frame[i] * factor + kRoundFloat) - kRoundFloat;
  for (int i = 0; i < kFrame; ++i) out[i * kLanes] = row[i];
}

void transform(const Tables &tables, const float *samples, Spectrum &spectrum) {
  Lanes shorts[kShort * kLong];
  for (int n = 0; n < kLong; ++n) {
    Lanes x[kShort];
    for (int m = 0; m < kShort; ++m) {
      const float *sample = samples + (kLong * m + kShort * n) % kFrame * kLanes;
      Narrow narrow;
      memcpy(&narrow, sample, sizeof narrow);
      const Lanes window = tables.window[kShort * n + m];
      x[m] = rounded(__builtin_convertvector(narrow, Lanes) * window);
    }
    transform_short(tables, x, shorts + n);
  }
  Lanes cos_cos[kLongWaves], cos_sin[kLongWaves], sin_cos[kLongWaves], sin_sin[kLongWaves];
  for (int k = 0; k < kShortWaves; ++k) {
    transform_long(tables, shorts + k * kLong, cos_cos, cos_sin);
    if (k == 0 || k == kShort / 2) {
      for (int n = 0; n < kLongWaves; ++n) spectrum.set(bin_of(k, n), cos_cos[n], cos_sin[n]);
      continue;
    }
    transform_long(tables, shorts + (kShortWaves + k - 1) * kLong, sin_cos, sin_sin);
    // cos(a + b) and sin(a + b), cos(a - b) and sin(a - b).
    for (int n = 0; n < kLongWaves; ++n) {
      spectrum.set(bin_of(k, n), cos_cos[n] - sin_sin[n], sin_cos[n] + cos_sin[n]);
      spectrum.set(bin_of(k, -n), cos_cos[n] + sin_sin[n], sin_cos[n] - cos_sin[n]);
    }
  }
}

// log10 with 11 fraction bits of a filtered power whose lowest bit is 2^exponent.
inline int16_t log10_of(const int32_t *logarithms, double power, int exponent) {
  constexpr int32_t kSilence = -10 * 2048, kLoudest = 12 * 2048 - 1;
  constexpr int32_t kLog2 = 1262611;  // log10(2) with 22 fraction bits
  constexpr int kMantissa = 20, kStep = 13, kDropped = 11;
  if (!(power >= 1)) return kSilence;
  int64_t bits;
  memcpy(&bits, &power, sizeof bits);
  const int32_t number = static_cast<int32_t>(bits >> (52 - kMantissa));
  const int32_t step = number >> kStep & 127, rest = number & ((1 << kStep) - 1);
  int32_t log10 = (logarithms[step + 1] - logarithms[step]) * rest >> kStep;
  log10 += logarithms[step] + ((number >> kMantissa) - 1023 + exponent) * kLog2;
  log10 = (log10 + (1 << (kDropped - 1))) >> kDropped;
  if (log10 < kSilence) return kSilence;
  return static_cast<int16_t>(log10 < kLoudest ? log10 : kLoudest);
}

void filter(const LogMelInt16 &a, const Spectrum &spectrum, const int *exponents, int64_t frame,
            int64_t count) {
  // The bins of a filter follow each other, and begin with none before those of the last one.
  int begin = 0;
  for (int64_t mel = 0; mel < a.n_mels; ++mel) {
    const int32_t *weights = a.filters + mel * kBins;
    int bin = begin;
    while (bin < kBins && weights[bin] == 0) ++bin;
    if (bin < kBins) begin = bin;
    Lanes upper = {}, lower = {};
    for (; bin < kBins && weights[bin] != 0; ++bin) {
      const Lanes weight = all(weights[bin]);
      upper = multiply_add(spectrum.upper[bin], weight, upper);
      lower = multiply_add(spectrum.lower[bin], weight, lower);
    }
    // The half of a unit that is added is made a little more, so that halves are rounded up.
    constexpr double kUnit = 1.0 / (1 << kFilterBits);
    const Lanes sum = upper * (kHalf * kUnit) + rounded(lower * kUnit + kUnit / 2);
    // Of powers in units of 2^-36.
    const int exponent = kFilterBits - 36 - a.shifts[mel];
    int16_t *out = a.out + mel * a.t + frame;
    for (int64_t lane = 0; lane < count; ++lane)
      out[lane] = log10_of(a.logarithms, sum[lane], exponent + 2 * exponents[lane]);
  }
}

void frames(const LogMelInt16 &a, int64_t first, int64_t last) {
  const Tables tables(a);
  alignas(64) float samples[kFrame * kLanes];
  Spectrum spectrum;
  for (int64_t frame = first; frame < last; frame += kLanes) {
    int exponents[kLanes];
    const int64_t count = last - frame < kLanes ? last - frame : kLanes;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      // Lanes without a frame have the last one again.
      const float *from = a.samples + (frame + (lane < count ? lane : count - 1)) * kHop;
      exponents[lane] = exponent_of(from);
      scale(from, exponents[lane], samples + lane);
    }
    transform(tables, samples, spectrum);
    filter(a, spectrum, exponents, frame, count);
  }
}

}  // namespace

extern const MelKernels JOIN(mel_, VARIANT) = {frames};
