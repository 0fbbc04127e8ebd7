// Pieces of the work on a panel: which planes one product takes, look-up nibbles as bytes, and outputs to their rows.
#pragma once

#include <cstdint>

#include "layout.hpp"

namespace qcore {
namespace {

// Part of a width whose unpacked codes one matrix product takes; 16-bit sums want few bits at a time.
struct Part {
  Planes planes;
  int first;  // index of its first plane
  int bits;
  int shift;
};

struct Parts {
  int count;
  Part part[2];
};

inline Parts parts_of(int bits) {
  const Planes all = planes_of(bits, true);
  if (bits < 7) return {1, {{all, 0, bits, 0}}};
  const Part low{{1, {{4, 0}}}, 0, 4, 0};
  if (bits == 8) return {2, {low, {{1, {{4, 0}}}, 1, 4, 4}}};
  return {2, {low, {{2, {{2, 0}, {1, 2}}}, 1, 3, 4}}};
}

// to[order[r]] = y[r] for the first n.
inline void scatter(const float* __restrict y, const int32_t* __restrict order, int n, float* __restrict to) {
  int r = 0;
  for (; r + 4 <= n; r += 4) {
    const int32_t a = order[r], b = order[r + 1], c = order[r + 2], d = order[r + 3];
    to[a] = y[r], to[b] = y[r + 1], to[c] = y[r + 2], to[d] = y[r + 3];
  }
  for (; r < n; ++r) to[order[r]] = y[r];
}

// For a block that comes from a processor with look-ups to one without.
inline void unpack_nibbles(const uint8_t* plane, int bits, int lanes, int pairs, uint8_t* to) {
  const int vector = 4 * lanes;
  for (int quad = 0; quad < 2 * pairs; ++quad, to += ROW_BLOCKS * vector) {
    const uint8_t* from = plane + (bits == 1 ? quad / 2 : quad) * vector;
    for (int i = 0; i < ROW_BLOCKS * vector; ++i) {
      const int r = i / vector, lane = i % vector / 4, j = i % 4;
      const int bit = bits == 1 ? 4 * (r + 4 * (quad & 1)) + j : 4 * (2 * r + j / 2) + 2 * (j % 2);
      to[i] = uint8_t(from[lane * 4 + bit / 8] >> (bit % 8) & ((1 << bits) - 1));
    }
  }
}

}  // namespace
}  // namespace qcore
