#include "pool.hpp"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace qcore {
namespace {

constexpr int MOST_WORKERS = 255;
constexpr int SPINS = 1000;  // some tens of microseconds: the next layer of a model often comes sooner

using Clock = std::chrono::steady_clock;

// A worker that lost its core in the middle of a task is waited for, some milliseconds each time. After such a wait the
// caller works alone for a while, twice as long each time, and less again as jobs end in time: a neighbour then costs
// its core and no more. The first time is short: it may have been a thread of torch that spins for a moment.
class Lateness {
 public:
  bool works_alone() const { return Clock::now() < until_; }

  // `worked`: what the caller's own tasks took; `waited`: for the workers' last ones.
  void note(Clock::duration worked, int64_t tasks, Clock::duration waited) {
    if (waited < LATE || waited < 4 * worked / (tasks + 1)) {
      pause_ = pause_ > SHORTEST ? pause_ - pause_ / 16 : SHORTEST;
      return;
    }
    until_ = Clock::now() + pause_;
    pause_ = pause_ < LONGEST ? 2 * pause_ : LONGEST;
  }

 private:
  static constexpr Clock::duration LATE = std::chrono::microseconds(500), SHORTEST = std::chrono::milliseconds(2),
                                   LONGEST = std::chrono::milliseconds(640);
  Clock::time_point until_{};
  Clock::duration pause_ = SHORTEST;
};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

struct Pool {
  std::mutex callers;  // one caller at a time has the workers; others work alone
  std::mutex sleeping;
  std::condition_variable wake;
  int workers = 0;    // guarded by `callers`
  Lateness lateness;  // guarded by `callers`
  std::atomic<int> sleepers{0};
  std::atomic<uint64_t> job{0};  // odd: open
  std::atomic<int> inside{0};    // workers that may be in the open job
  std::atomic<int64_t> next{0};
  std::atomic<int> wanted{0};
  std::atomic<bool> failed{false};
  std::exception_ptr failure;  // read once the job is closed and empty
  int64_t tasks = 0;
  void (*task)(const void*, int64_t) = nullptr;
  const void* context = nullptr;

  // Returns how many tasks it did. The first exception of any is kept for the caller, and ends the job.
  int64_t work() {
    int64_t done = 0;
    try {
      for (int64_t i; (i = next.fetch_add(1)) < tasks; ++done) task(context, i);
    } catch (...) {
      next.store(tasks);
      if (!failed.exchange(true)) failure = std::current_exception();
    }
    return done;
  }

  void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      const uint64_t now = wait(seen);
      seen = now;
      if (index >= wanted.load()) continue;
      // Either the caller sees this worker inside, or this worker sees that the job has been closed.
      inside.fetch_add(1);
      if (job.load() == now) work();
      inside.fetch_sub(1);
      // A neighbour on this core had better take its turn now than in the middle of a task, for which the caller waits.
      sched_yield();
    }
  }

  uint64_t wait(uint64_t seen) {
    for (int i = 1; i <= SPINS; ++i) {
      const uint64_t now = job.load();
      if (now != seen && now & 1) return now;
      i % 64 ? pause() : void(sched_yield());
    }
    std::unique_lock<std::mutex> lock(sleeping);
    sleepers.fetch_add(1);
    uint64_t now;
    wake.wait(lock, [&] { return (now = job.load()) != seen && now & 1; });
    sleepers.fetch_sub(1);
    return now;
  }

  void hire(int count) {
    while (workers < count) {
      try {
        std::thread(&Pool::serve, this, workers).detach();
      } catch (const std::system_error&) {
        return;  // no more threads to be had: those that are there do
      }
      ++workers;
    }
  }

  void run(int helpers, int64_t count, void (*f)(const void*, int64_t), const void* c) {
    hire(helpers);
    tasks = count, task = f, context = c;
    next.store(0);
    wanted.store(helpers);
    job.fetch_add(1);
    if (sleepers.load() > 0) {
      std::lock_guard<std::mutex> lock(sleeping);
      wake.notify_all();
    }
    const auto start = Clock::now();
    const int64_t done = work();
    job.fetch_add(1);
    const auto worked = Clock::now();
    for (int i = 0; inside.load() != 0; ++i) i < SPINS ? pause() : void(sched_yield());
    lateness.note(worked - start, done, Clock::now() - worked);
    if (failed.exchange(false)) std::rethrow_exception(std::exchange(failure, nullptr));
  }
};

// Never destroyed: workers outlive main. A forked child has none of them and starts anew.
std::atomic<Pool*> pool{nullptr};

Pool& the_pool() {
  Pool* p = pool.load();
  if (p) return *p;
  Pool* fresh = new Pool;
  if (!pool.compare_exchange_strong(p, fresh)) {
    delete fresh;
    return *p;
  }
  static const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
  (void)registered;
  return *fresh;
}

}  // namespace

void parallel(int threads, int64_t tasks, void (*task)(const void*, int64_t), const void* context) {
  Pool& p = the_pool();
  const int64_t most = threads - 1 < tasks - 1 ? threads - 1 : tasks - 1;
  std::unique_lock<std::mutex> lock(p.callers, std::try_to_lock);
  if (!lock.owns_lock() || p.lateness.works_alone()) {
    for (int64_t i = 0; i < tasks; ++i) task(context, i);
    return;
  }
  p.run(int(most < MOST_WORKERS ? most : MOST_WORKERS), tasks, task, context);
}

}  // namespace qcore
