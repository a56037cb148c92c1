// ParallelFor: the calling thread works through a range, and threads of XLA's own pool help as they come.
#ifndef EFFICIENT_PARALLEL_H_
#define EFFICIENT_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace efficient {

constexpr int64_t kGrain = int64_t{1} << 20;  // multiplications that are worth waking a thread for

// body(i) for each i in [0, count), each once, in any order; `work` is multiplications in all. Never waits for a
// thread that has not begun: a helper that comes after the caller is done finds the door closed and leaves, so
// that a full pool cannot deadlock.
template <typename Body>
void ParallelFor(xla::ffi::ThreadPool& pool, int64_t count, int64_t work, const Body& body) {
  const int64_t useful = std::min(count, work / kGrain + 1);
  const int64_t helpers = std::min<int64_t>(useful, pool.num_threads()) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  struct Shared {
    std::atomic<int64_t> next{0};
    std::mutex mutex;
    std::condition_variable left;
    int64_t inside = 0;
    bool closed = false;
  };
  auto shared = std::make_shared<Shared>();
  const Body* task = &body;
  auto run = [count, task](Shared& s) {
    for (int64_t i = s.next.fetch_add(1); i < count; i = s.next.fetch_add(1)) (*task)(i);
  };
  for (int64_t h = 0; h < helpers; ++h) {
    pool.Schedule([shared, run]() {
      {
        std::lock_guard<std::mutex> lock(shared->mutex);
        if (shared->closed) return;
        ++shared->inside;
      }
      run(*shared);
      std::lock_guard<std::mutex> lock(shared->mutex);
      --shared->inside;
      shared->left.notify_all();
    });
  }
  run(*shared);
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->closed = true;
  shared->left.wait(lock, [&] { return shared->inside == 0; });
}

}  // namespace efficient

#endif  // EFFICIENT_PARALLEL_H_
