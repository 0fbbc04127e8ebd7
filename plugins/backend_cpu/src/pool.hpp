// A small thread pool whose caller works too: it takes tasks from a shared counter and never waits for a worker that has
// not started, so a neighbour that holds a core costs no more than that core.
#pragma once

#include <cstdint>

namespace qcore {

// Call task(context, i) for each i < tasks on up to `threads` threads, the caller among them.
void parallel(int threads, int64_t tasks, void (*task)(const void* context, int64_t i), const void* context);

template <class F>
void parallel_for(int threads, int64_t tasks, const F& f) {
  if (threads <= 1 || tasks <= 1) {
    for (int64_t i = 0; i < tasks; ++i) f(i);
    return;
  }
  parallel(threads, tasks, [](const void* context, int64_t i) { (*static_cast<const F*>(context))(i); }, &f);
}

}  // namespace qcore
