#include "fake.hpp"

#include <atomic>
#include <cmath>
#include <limits>

#include "linear.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace qcore {
namespace {

constexpr int64_t PIECE = 1 << 14;             // elements of a long slice that one task takes
constexpr int64_t WORTH_A_THREAD = 1 << 17;    // elements

struct Range {
  float low, high;
};

bool finite(const Range& r) { return std::isfinite(r.low) && std::isfinite(r.high); }

Fake fake_of(const Range& r, int bits, bool symmetric) {
  const float q = float(symmetric ? (1 << (bits - 1)) - 1 : (1 << bits) - 1);
  const Coder c = symmetric ? symmetric_coder(-r.low > r.high ? -r.low : r.high, bits)
                            : dynamic_affine_coder(r.low, r.high, bits);
  return {c.inverse, c.scale, symmetric ? -q : 0, q, symmetric ? 0 : float(c.zero_point)};
}

}  // namespace

bool fake_quantize(const RowKernels& rows, const float* x, int64_t slices, int64_t n, int bits, bool symmetric,
                   float* y, int threads) {
  const int use = slices * n < WORTH_A_THREAD ? 1 : threads;
  const int64_t pieces = n > 2 * PIECE ? (n + PIECE - 1) / PIECE : 1, piece = (n + pieces - 1) / pieces;
  const auto ranges = allocate<Range>(slices * pieces);
  std::atomic<bool> nan{false};
  auto length = [&](int64_t p) { return (p + 1) * piece < n ? piece : n - p * piece; };
  auto find = [&](int64_t i) {
    Range& r = ranges[size_t(i)];
    bool bad = false;
    rows.finite_range(x + i / pieces * n + i % pieces * piece, length(i % pieces), &r.low, &r.high, &bad);
    if (bad || !finite(r)) nan.store(true);
  };
  auto round = [&](int64_t slice, const Fake& fake, int64_t p) {
    const int64_t start = slice * n + p * piece;
    rows.fake(x + start, length(p), fake, symmetric, y + start);
  };
  if (pieces == 1) {  // the second read finds the slice in the cache
    parallel_for(use, slices, [&](int64_t i) {
      find(i);
      round(i, fake_of(ranges[size_t(i)], bits, symmetric), 0);
    });
    return !nan.load();
  }
  parallel_for(use, slices * pieces, find);
  for (int64_t s = 0; s < slices; ++s) {
    Range whole = ranges[size_t(s * pieces)];
    for (int64_t p = 1; p < pieces; ++p) {
      const Range& r = ranges[size_t(s * pieces + p)];
      whole.low = r.low < whole.low ? r.low : whole.low;
      whole.high = r.high > whole.high ? r.high : whole.high;
    }
    ranges[size_t(s * pieces)] = whole;
  }
  parallel_for(use, slices * pieces, [&](int64_t i) {
    round(i / pieces, fake_of(ranges[size_t(i / pieces * pieces)], bits, symmetric), i % pieces);
  });
  return !nan.load();
}

}  // namespace qcore
