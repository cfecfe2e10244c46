#include "pool.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace {

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How often a thread looks for the next call before it sleeps. A few 10 us are longer than the gaps
// between ops that follow each other; to wake it takes as long.
constexpr int kSpins = 2000;
// Longer than the gap between two steps of a decoder, for where nothing else wants the processor in
// between.
constexpr int kManySpins = 10000;
std::atomic<int> spins_of_workers{kSpins};

// A call is published by opening the gate. Workers that are awake come in; the caller works too,
// and when there is no item left it closes the gate and waits for those inside. A worker that
// sleeps or was not scheduled delays nobody.
class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    try {
      for (int i = 1; i < threads; ++i) std::thread(&Pool::work, this, i).detach();
    } catch (const std::system_error &) {
      // The system has no more threads to give: those that there are do the work.
    }
  }

  int threads() const { return threads_; }

  // False if another call is under way.
  bool run(int64_t items, int threads, Body body, const void *context) {
    if (busy_.exchange(true, std::memory_order_acquire)) return false;
    items_ = items;
    limit_ = threads;
    body_ = body;
    context_ = context;
    next_.store(0, std::memory_order_relaxed);
    gate_.store((((gate_.load(std::memory_order_relaxed) >> 16) + 1) << 16) | kOpen);
    if (sleepers_.load() > 0) {
      {
        std::lock_guard<std::mutex> lock(mutex_);
      }
      wake_.notify_all();
    }
    take_items(0);
    uint64_t gate = gate_.fetch_and(~kOpen);
    for (int spins = 0; (gate & kInside) != 0; gate = gate_.load(std::memory_order_acquire))
      if (++spins < kSpins)
        pause_briefly();
      else
        std::this_thread::yield();
    busy_.store(false, std::memory_order_release);
    return true;
  }

  // No thread waits for a call any more; the pool is left behind.
  void retire() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      retired_.store(true);
    }
    wake_.notify_all();
  }

 private:
  // The gate: its lowest bit says that it is open, the next fifteen how many workers are inside,
  // the rest numbers the calls.
  static constexpr uint64_t kOpen = 1;
  static constexpr uint64_t kWorker = 2;
  static constexpr uint64_t kInside = 0xfffe;

  void take_items(int thread) {
    int64_t item;
    while ((item = next_.fetch_add(1, std::memory_order_relaxed)) < items_)
      body_(context_, item, thread);
  }

  void work(int thread) {
    uint64_t done = 0;
    while (true) {
      uint64_t gate = wait_for_call(done);
      if (retired_.load()) return;
      while ((gate & kOpen) != 0 && (gate >> 16) != done) {
        if (!gate_.compare_exchange_weak(gate, gate + kWorker)) continue;
        done = gate >> 16;
        if (thread < limit_) take_items(thread);
        gate_.fetch_sub(kWorker, std::memory_order_release);
      }
      done = gate >> 16;
    }
  }

  bool is_new(uint64_t gate, uint64_t done) const {
    return ((gate & kOpen) != 0 && (gate >> 16) != done) || retired_.load();
  }

  uint64_t wait_for_call(uint64_t done) {
    for (int i = 0; i < spins_of_workers.load(std::memory_order_relaxed); ++i) {
      const uint64_t gate = gate_.load(std::memory_order_acquire);
      if (is_new(gate, done)) return gate;
      pause_briefly();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1);
    uint64_t gate;
    while (!is_new(gate = gate_.load(), done)) wake_.wait(lock);
    sleepers_.fetch_sub(1);
    return gate;
  }

  const int threads_;
  std::atomic<bool> busy_{false};
  int64_t items_ = 0;
  int limit_ = 0;
  Body body_ = nullptr;
  const void *context_ = nullptr;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint64_t> gate_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> retired_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

std::mutex making;
std::atomic<Pool *> pool{nullptr};
std::atomic<int> wanted{1};

// A child has none of its parent's threads, and maybe locks that one of them held: it begins anew.
// What the parent had is left alone.
void begin_anew() {
  pool.store(nullptr);
  new (&making) std::mutex;
}

Pool *current_pool(int threads) {
  Pool *found = pool.load(std::memory_order_acquire);
  if (found != nullptr && found->threads() == threads) return found;
  std::lock_guard<std::mutex> lock(making);
  static const int registered = pthread_atfork(nullptr, nullptr, begin_anew);
  (void)registered;
  found = pool.load();
  if (found == nullptr || found->threads() != threads) {
    // Never deleted: its threads and other callers may still look at it.
    if (found != nullptr) found->retire();
    found = new Pool(threads);
    pool.store(found, std::memory_order_release);
  }
  return found;
}

}  // namespace

void set_threads(int threads) { wanted.store(threads < 1 ? 1 : threads > 1024 ? 1024 : threads); }

int get_threads() { return wanted.load(); }

void stay_awake(bool longer) { spins_of_workers.store(longer ? kManySpins : kSpins); }

void run_parallel(int64_t items, int threads, Body body, const void *context) {
  const int all = get_threads();
  if (items > 1 && threads > 1 && all > 1 && current_pool(all)->run(items, threads, body, context))
    return;
  for (int64_t item = 0; item < items; ++item) body(context, item, 0);
}
