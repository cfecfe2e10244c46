// Several threads of a program that use the library at the same time, for ThreadSanitizer
// (test_sanitizers.py). Each has arrays and scratch of its own and compares what it gets with what
// it got alone; meanwhile the number of threads changes, as it does when models are opened.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "api.h"

namespace {

constexpr int kCallers = 4, kRounds = 40, kThreads = 3;

struct Memory {
  std::vector<uint8_t> bytes;
  Scratch scratch;
  explicit Memory(int64_t each) : bytes(each * kThreads + 64) {
    uint8_t *data = bytes.data();
    data += -reinterpret_cast<uintptr_t>(data) % 64;
    scratch = {data, each, kThreads};
  }
};

// Inputs and outputs of one caller: each kernel has enough to do for its work to be shared.
struct Caller {
  static constexpr int64_t kRows = 40, kWidth = 256, kHeads = 4;
  std::vector<float> y, scale, w_scale, gain, logprobs;
  std::vector<int32_t> x, product, attended, again;
  std::vector<int16_t> values;
  std::vector<int8_t> weights;
  std::vector<int64_t> tokens;
  Memory memory;

  explicit Caller(int number)
      : y(kRows * kWidth), scale(kRows), w_scale(kWidth, 1.0f / 4096), gain(kWidth, 1.0f),
        logprobs(kRows), x(kRows * kWidth), product(kRows * kWidth), attended(kRows * kWidth),
        again(kRows * kWidth), values(kRows * kWidth), weights(kWidth * kWidth), tokens(kRows),
        memory(1 << 20) {
    uint32_t state = 12345u + static_cast<uint32_t>(number);
    const auto next = [&] { return static_cast<int32_t>((state = state * 1664525u + 1u) >> 16); };
    for (int32_t &value : x) value = next() % 16384 - 8192;
    for (int8_t &value : weights) value = static_cast<int8_t>(next() % 255 - 127);
  }

  // Several kernels, each of which reads what the one before it wrote. Whether all took part.
  bool run() {
    const QuantizeInt32 quantize = {x.data(), values.data(), scale.data(), 16, 12, kRows, kWidth};
    const ProductInt8 multiply = {values.data(), scale.data(), weights.data(), w_scale.data(),
                                  nullptr, product.data(), 16, kRows, kWidth, kWidth,
                                  &memory.scratch};
    const GeluInt32 gelu_int32 = {product.data(), product.data(), kRows * kWidth};
    const AttentionInt32 attention_int32 = {product.data(), product.data(), product.data(),
                                            attended.data(), 1, kRows, kHeads, kWidth / kHeads,
                                            &memory.scratch};
    const AttentionInt32 attention_int8 = {attended.data(), product.data(), product.data(),
                                           again.data(), 1, kRows, kHeads, kWidth / kHeads,
                                           &memory.scratch};
    const LogitsFloat floats = {again.data(), y.data(), kRows * kWidth};
    const Gelu gelu = {y.data(), y.data(), kRows * kWidth};
    const LayerNorm norm = {y.data(), gain.data(), gain.data(), y.data(), kRows, kWidth};
    const Attention attention = {y.data(), y.data(), y.data(), y.data(), 1, kRows, kHeads,
                                 kWidth / kHeads, 0.125f, &memory.scratch};
    const TopLogprobs top = {y.data(), tokens.data(), logprobs.data(), kRows, kWidth, 1,
                             &memory.scratch};
    return cpu_quantize_int32(&quantize) == 0 && cpu_product_int8(&multiply) == 0 &&
           cpu_gelu_int32(&gelu_int32) == 0 && cpu_attention_int32(&attention_int32) == 0 &&
           cpu_attention_int8(&attention_int8) == 0 && cpu_logits_float(&floats) == 0 &&
           cpu_gelu(&gelu) == 0 &&
           cpu_layer_norm(&norm) == 0 && cpu_attention(&attention) == 0 &&
           cpu_top_logprobs(&top) == 0 && cpu_top_logprobs_int32(&top) == 0;
  }
};

}  // namespace

int main() {
  cpu_set_threads(1);
  std::vector<Caller> callers;
  std::vector<std::vector<float>> alone;
  for (int i = 0; i < kCallers; ++i) callers.emplace_back(i);
  for (Caller &caller : callers) {
    if (!caller.run()) return 2;
    alone.push_back(caller.y);
  }
  std::atomic<int> wrong{0}, running{kCallers};
  std::vector<std::thread> threads;
  for (int i = 0; i < kCallers; ++i)
    threads.emplace_back([&, i] {
      for (int round = 0; round < kRounds; ++round)
        if (!callers[i].run() ||
            memcmp(callers[i].y.data(), alone[i].data(), alone[i].size() * sizeof(float)) != 0)
          ++wrong;
      --running;
    });
  for (int i = 0; running.load() > 0; ++i) {
    cpu_set_threads(1 + i % kThreads);
    cpu_stay_awake(i % 2);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (std::thread &thread : threads) thread.join();
  printf("%d wrong\n", wrong.load());
  return wrong.load() != 0;
}
