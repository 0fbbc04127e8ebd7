// Activation codes and the epilogue in portable C++: the formulas of qcore.tensor.integer and qcore.tensor.arithmetic.
// Compiled without contraction: a fused multiply-add rounds once where the formulas round twice.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels.hpp"

namespace qcore {
namespace {

// In these tails the comparisons are written so that NaN leaves the bound as it is; encode() finds it.
inline void range_tail(const float* x, int64_t i, int64_t n, float* low, float* high) {
  for (; i < n; ++i) {
    if (x[i] < *low) *low = x[i];
    if (x[i] > *high) *high = x[i];
  }
}

inline int64_t encode_tail(const float* x, int64_t i, int64_t n, float inverse, float low, float high, int less,
                           int8_t* codes, bool* nan) {
  int64_t total = 0;
  for (; i < n; ++i) {
    float v = x[i] * inverse;
    if (v != v) *nan = true;
    v = v > low ? (v < high ? v : high) : low;
    const int code = int(std::nearbyintf(v)) - less;
    codes[i] = int8_t(code);
    total += code;
  }
  return total;
}

inline void columns_tail(const float* x, int64_t i, int64_t n, const InputColumns& c, int less, int8_t* codes, int8_t* low,
                         bool* nan, ByteSums* sums) {
  for (; i < n; ++i) {
    float v = x[i] * c.inverse[i];
    if (v != v) *nan = true;
    const float top = c.largest[i], bottom = c.symmetric ? -top : 0.0f;
    v = v > bottom ? (v < top ? v : top) : bottom;
    const int code = int(std::nearbyintf(v)) * int(c.step[i]);
    const int high = (low ? code >> 8 : code) - less;
    codes[i] = int8_t(high);
    sums->codes += high;
    if (!low) continue;
    low[i] = int8_t((code & 255) - 128);
    sums->low += low[i];
  }
}

inline int64_t sum_tail(const int8_t* codes, int64_t i, int64_t n) {
  int64_t total = 0;
  for (; i < n; ++i) total += codes[i];
  return total;
}

inline void scale_tail(const int32_t* s, int64_t i, int64_t n, int32_t step, const int32_t* offset, int32_t total,
                       int32_t shift, const int32_t* sum, float x_scale, const float* scale, bool add, float* out) {
  for (; i < n; ++i) {
    // Modulo 2**32: the result is known to fit, whatever the parts do.
    const uint32_t acc = uint32_t(step) * uint32_t(s[i]) + uint32_t(offset[i]) * uint32_t(total) +
                         uint32_t(shift) * uint32_t(sum[i]);
    const float factor = x_scale * scale[i];
    const float y = float(int32_t(acc)) * factor;
    out[i] = add ? out[i] + y : y;
  }
}

inline void real_scale_tail(const float* s, int64_t i, int64_t n, const float* scale, bool add, float* out) {
  for (; i < n; ++i) {
    const float y = s[i] * scale[i];
    out[i] = add ? out[i] + y : y;
  }
}

// The part of a transpose from row `row` and column `col` on.
template <class T>
inline void transpose_tail(const T* from, ptrdiff_t from_stride, int row, int rows, int col, int cols, T* to,
                           ptrdiff_t to_stride) {
  for (int r = row; r < rows; ++r) {
    for (int c = col; c < cols; ++c) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

inline bool nan_tail(const float* x, int64_t i, int64_t n) {
  bool bad = false;
  for (; i < n; ++i) bad |= x[i] != x[i];
  return bad;
}

inline void fake_tail(const float* x, int64_t i, int64_t n, const Fake& f, bool symmetric, float* y) {
  constexpr float LIMIT = 0x1.fffffep127f;
  for (; i < n; ++i) {
    const float product = x[i] * f.inverse;
    float code = std::nearbyintf(product);
    if (!symmetric) code = code + f.zero;
    code = code < f.low ? f.low : code > f.high ? f.high : code;
    if (!symmetric) code = code - f.zero;
    const float value = code * f.scale;
    y[i] = symmetric ? value : value > LIMIT ? LIMIT : value < -LIMIT ? -LIMIT : value;
  }
}

inline void finish_tail(float* y, int64_t i, int64_t n, const float* bias, bool relu) {
  for (; i < n; ++i) {
    y[i] = y[i] + bias[i];
    if (relu && y[i] < 0) y[i] = 0;
  }
}

#if !defined(__AVX2__)
void range(const float* x, int64_t n, float* low, float* high) {
  *low = *high = 0;
  range_tail(x, 0, n, low, high);
}

int64_t encode(const float* x, int64_t n, float inverse, float low, float high, int less, int8_t* codes, bool* nan) {
  return encode_tail(x, 0, n, inverse, low, high, less, codes, nan);
}

ByteSums encode_columns(const float* x, int64_t n, const InputColumns& columns, int less, int8_t* codes, int8_t* low,
                        bool* nan) {
  ByteSums sums{0, 0};
  columns_tail(x, 0, n, columns, less, codes, low, nan, &sums);
  return sums;
}

int64_t sum(const int8_t* codes, int64_t n) { return sum_tail(codes, 0, n); }

void scale(const int32_t* s, int64_t n, int32_t step, const int32_t* offset, int32_t total, int32_t shift,
           const int32_t* sum, float x_scale, const float* scale, bool add, float* out) {
  scale_tail(s, 0, n, step, offset, total, shift, sum, x_scale, scale, add, out);
}

void widen(const uint8_t* panel, int quads, int lanes, int32_t step, const int32_t* offset, float* tile) {
  const int rows = ROW_BLOCKS * lanes;
  for (int q = 0; q < quads; ++q, panel += 4 * rows) {
    for (int j = 0; j < 4; ++j, tile += rows) {
      for (int r = 0; r < rows; ++r) tile[r] = float(step * panel[4 * r + j] + offset[r]);
    }
  }
}

void real_gemm(const float* tile, int n, int width, const float* x, ptrdiff_t stride, int rows, float* sums) {
  for (int m = 0; m < rows; ++m, x += stride, sums += width) {
    for (int k = 0; k < n; ++k) {
      for (int r = 0; r < width; ++r) sums[r] += x[k] * tile[k * width + r];
    }
  }
}

void real_scale(const float* s, int64_t n, const float* scale, bool add, float* out) {
  real_scale_tail(s, 0, n, scale, add, out);
}

void transpose(const float* from, ptrdiff_t from_stride, int rows, int cols, float* to, ptrdiff_t to_stride) {
  transpose_tail(from, from_stride, 0, rows, 0, cols, to, to_stride);
}

void transpose_bytes(const int8_t* from, ptrdiff_t from_stride, int rows, int cols, int8_t* to, ptrdiff_t to_stride) {
  transpose_tail(from, from_stride, 0, rows, 0, cols, to, to_stride);
}

void finite_range(const float* x, int64_t n, float* low, float* high, bool* bad) {
  range(x, n, low, high);
  *bad = nan_tail(x, 0, n);
}

void fake(const float* x, int64_t n, const Fake& f, bool symmetric, float* y) { fake_tail(x, 0, n, f, symmetric, y); }

void finish(float* y, int64_t n, const float* bias, bool relu) { finish_tail(y, 0, n, bias, relu); }
#endif

}  // namespace
}  // namespace qcore
