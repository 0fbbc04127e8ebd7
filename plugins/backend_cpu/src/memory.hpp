// Aligned memory for codes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

#include "layout.hpp"

namespace qcore {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

template <class T>
using Memory = std::unique_ptr<T[], Free>;

template <class T>
Memory<T> allocate(int64_t n) {
  void* p = std::aligned_alloc(ALIGNMENT, size_t(round_up(n * int64_t(sizeof(T)) + 1, ALIGNMENT)));
  if (!p) throw std::bad_alloc();
  return Memory<T>(static_cast<T*>(p));
}

// Bytes of the calling thread's own, until its next call for the same purpose.
enum class Purpose { codes, panel, corrections, floats, outputs, images };

template <Purpose P>
int8_t* scratch(int64_t n) {
  thread_local Memory<int8_t> held;
  thread_local int64_t size = 0;
  if (n > size) held = allocate<int8_t>(n), size = n;
  return held.get();
}

}  // namespace qcore
