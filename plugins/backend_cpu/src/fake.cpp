#include "fake.hpp"

#include <atomic>
#include <cmath>
#include <limits>

#include "fake_sums.hpp"
#include "linear.hpp"
#include "memory.hpp"
#include "pool.hpp"

namespace qcore {
namespace {

constexpr int64_t PIECE = 1 << 14;             // elements of a long slice that one task takes
static_assert(PIECE == SUM_COLS << 7, "a piece is a node of the tree of sums");
constexpr int64_t WORTH_A_THREAD = 1 << 17;    // elements

struct Range {
  float low, high;
};

bool finite(const Range& r) { return std::isfinite(r.low) && std::isfinite(r.high); }

Fake fake_of(const Range& r, int bits, bool symmetric, float floor) {
  const float q = float(symmetric ? (1 << (bits - 1)) - 1 : (1 << bits) - 1);
  const float bound = -r.low > r.high ? -r.low : r.high;
  const Coder c = symmetric ? symmetric_coder(bound > floor ? bound : floor, bits)
                            : dynamic_affine_coder(r.low, r.high, bits);
  return {c.inverse, c.scale, symmetric ? -q : 0, q, symmetric ? 0 : float(c.zero_point)};
}

// Slices cut into tasks that are worth their while: several short ones, or a piece of a long one.
struct Cut {
  int64_t slices, n, pieces, piece, together;

  // With a `length`, pieces have that many elements, and only the last one fewer.
  Cut(int64_t slices, int64_t n, int64_t length = 0) : slices(slices), n(n) {
    pieces = n > 2 * PIECE ? (n + PIECE - 1) / PIECE : 1;
    piece = pieces > 1 && length ? length : (n + pieces - 1) / pieces;
    together = pieces == 1 && n < PIECE ? (PIECE + n - 1) / (n > 0 ? n : 1) : 1;
  }

  // f(slice, piece, start, length) for each piece of each slice.
  template <class F>
  void each(int threads, const F& f) const {
    const int use = slices * n < WORTH_A_THREAD ? 1 : threads;
    parallel_for(use, (slices * pieces + together - 1) / together, [&](int64_t task) {
      const int64_t first = task * together, rest = slices * pieces - first;
      for (int64_t i = first; i < first + (rest < together ? rest : together); ++i) {
        const int64_t p = i % pieces, offset = p * piece;
        f(i / pieces, p, i / pieces * n + offset, offset + piece < n ? piece : n > offset ? n - offset : 0);
      }
    });
  }
};

}  // namespace

bool fake_to_grid(const FakeKernels& kernels, const float* x, int64_t slices, int64_t n, const FakeGrid& grid, float* y,
                  int threads) {
  std::atomic<bool> finite{true};
  const bool affine = grid.zero.values, divide = !grid.inverse.values;
  Cut(slices, n).each(threads, [&](int64_t slice, int64_t, int64_t start, int64_t length) {
    const Fake f{divide ? 0 : grid.inverse.at(slice), grid.scale.at(slice), grid.low, grid.high,
                 affine ? grid.zero.at(slice) : 0};
    if (!kernels.round_to_grid(x + start, length, f, affine, divide, y + start)) finite.store(false);
  });
  return finite.load();
}

bool fake_to_sign(const FakeKernels& kernels, const float* x, int64_t slices, int64_t n, const PerSlice& threshold,
                  const PerSlice& magnitude, float* y, int threads) {
  std::atomic<bool> finite{true};
  const bool at = !threshold.values;
  Cut(slices, n).each(threads, [&](int64_t slice, int64_t, int64_t start, int64_t length) {
    const float limit = at ? 0 : threshold.at(slice);
    if (!kernels.round_to_sign(x + start, length, limit, at, magnitude.at(slice), y + start)) finite.store(false);
  });
  return finite.load();
}

bool fake_to_odd(const FakeKernels& kernels, const float* x, int64_t slices, int64_t n, const PerSlice& inverse,
                 const PerSlice& half, const PerSlice& top, float* y, int threads) {
  std::atomic<bool> finite{true};
  Cut(slices, n).each(threads, [&](int64_t s, int64_t, int64_t start, int64_t length) {
    if (!kernels.round_to_odd(x + start, length, inverse.at(s), half.at(s), top.at(s), y + start)) finite.store(false);
  });
  return finite.load();
}

void fake_odd_products(const FakeKernels& kernels, const float* g, const float* x, int64_t slices, int64_t n, int count,
                       const float* inverse, const float* half, const float* top, float* products, int threads) {
  const Cut cut(slices, n);
  const auto parts = allocate<double>(slices * cut.pieces * count);
  cut.each(threads, [&](int64_t slice, int64_t piece, int64_t start, int64_t length) {
    kernels.odd_products(g + start, x + start, length, count, inverse + slice * count, top,
                         &parts[size_t((slice * cut.pieces + piece) * count)]);
  });
  for (int64_t i = 0; i < slices * count; ++i) {
    double sum = 0;
    for (int64_t p = 0; p < cut.pieces; ++p) sum += parts[size_t((i / count * cut.pieces + p) * count + i % count)];
    products[i] = float(sum * double(half[i]));
  }
}

void fake_mask(const FakeKernels& kernels, const float* g, const float* x, int64_t slices, int64_t n,
               const PerSlice& low, const PerSlice& high, float* dx, int threads) {
  Cut(slices, n).each(threads, [&](int64_t slice, int64_t, int64_t start, int64_t length) {
    kernels.mask_gradient(g + start, x + start, length, low.at(slice), high.at(slice), dx + start);
  });
}

void fake_sums(const FakeKernels& kernels, const float* x, int64_t slices, int64_t n, bool magnitude, double* sums,
               int threads) {
  const Cut cut(slices, n, PIECE);  // a power of two of rows: a node of the tree
  const bool whole = cut.pieces == 1;
  const auto rows = allocate<double>(whole ? 0 : slices * cut.pieces * SUM_COLS);
  cut.each(threads, [&](int64_t slice, int64_t piece, int64_t start, int64_t length) {
    double row[SUM_COLS];
    kernels.sum_rows(x + start, length, magnitude, row);
    if (whole) sums[slice] = fold(row);
    else std::memcpy(&rows[size_t((slice * cut.pieces + piece) * SUM_COLS)], row, sizeof(row));
  });
  for (int64_t slice = 0; slice < slices && !whole; ++slice) {
    RowCounter counter;
    for (int64_t p = 0; p < cut.pieces; ++p) counter.push(&rows[size_t((slice * cut.pieces + p) * SUM_COLS)], 7);
    double row[SUM_COLS];
    counter.finish(row);
    sums[slice] = fold(row);
  }
}

void fake_learned(const FakeKernels& kernels, const float* g, const float* x, int64_t slices, int64_t n,
                  const PerSlice& scale, float low, float high, float* dx, float* dscale, int threads) {
  const Cut cut(slices, n);
  const auto parts = allocate<double>(slices * cut.pieces);
  cut.each(threads, [&](int64_t slice, int64_t piece, int64_t start, int64_t length) {
    parts[size_t(slice * cut.pieces + piece)] =
        kernels.learned_scale_gradients(g + start, x + start, length, scale.at(slice), low, high, dx + start);
  });
  const int64_t sums = scale.each ? slices : 1, of = sums ? slices / sums * cut.pieces : 0;
  for (int64_t i = 0; i < sums; ++i) {
    double sum = 0;
    for (int64_t p = 0; p < of; ++p) sum += parts[size_t(i * of + p)];
    dscale[i] = float(sum);
  }
}

bool fake_quantize(const RowKernels& rows, const float* x, int64_t slices, int64_t n, int bits, bool symmetric,
                   float floor, float* y, int threads) {
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
      round(i, fake_of(ranges[size_t(i)], bits, symmetric, floor), 0);
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
    round(i / pieces, fake_of(ranges[size_t(i / pieces * pieces)], bits, symmetric, floor), i % pieces);
  });
  return !nan.load();
}

}  // namespace qcore
