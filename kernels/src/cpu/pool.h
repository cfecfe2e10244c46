// Threads that share the items of one call at a time.
#pragma once

#include <stdint.h>

// Called for every item; ``thread`` is below the number of threads asked for, and no two calls have
// the same at the same time.
using Body = void (*)(const void *context, int64_t item, int thread);

// Run body for items 0 ... items - 1 on at most ``threads`` threads. Waits until all are done.
void run_parallel(int64_t items, int threads, Body body, const void *context);

void set_threads(int threads);
int get_threads();

// Whether threads wait longer for the next call before they sleep.
void stay_awake(bool longer);

template <typename Function>
void parallel(int64_t items, int threads, const Function &function) {
  run_parallel(
      items, threads,
      [](const void *context, int64_t item, int thread) {
        (*static_cast<const Function *>(context))(item, thread);
      },
      &function);
}
