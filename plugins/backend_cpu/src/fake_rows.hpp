// Rows of fake quantization in portable C++. The tails start at element i; nothing depends on the order of the elements
// but the sum, whose lanes are spelled out: element i goes to lane i % LANES.
#pragma once

#include <cmath>
#include <cstdint>

#include "fake.hpp"

namespace qcore {
namespace {

constexpr float FINITE = 0x1.fffffep127f;
constexpr int LANES = 8;

inline bool finite(float v) { return std::fabs(v) <= FINITE; }

bool grid_tail(const float* x, int64_t i, int64_t n, const Fake& f, bool affine, bool divide, float* y) {
  bool good = true;
  for (; i < n; ++i) {
    good &= finite(x[i]);
    float code = std::nearbyintf(divide ? x[i] / f.scale : x[i] * f.inverse);
    if (affine) code = code + f.zero;
    code = code < f.low ? f.low : code > f.high ? f.high : code;
    if (affine) code = code - f.zero;
    const float value = code * f.scale;
    y[i] = !affine ? value : value > FINITE ? FINITE : value < -FINITE ? -FINITE : value;
  }
  return good;
}

bool sign_tail(const float* x, int64_t i, int64_t n, float threshold, bool at, float magnitude, float* y) {
  bool good = true;
  for (; i < n; ++i) {
    good &= finite(x[i]);
    y[i] = (at ? x[i] >= threshold : x[i] > threshold) ? magnitude : -magnitude;
  }
  return good;
}

inline float odd_code(float x, float inverse, float top) {
  const float step = std::floor(x * inverse);
  return 2 * (step < -top ? -top : step > top - 1 ? top - 1 : step) + 1;
}

bool odd_tail(const float* x, int64_t i, int64_t n, float inverse, float half, float top, float* y) {
  bool good = true;
  for (; i < n; ++i) {
    good &= finite(x[i]);
    y[i] = odd_code(x[i], inverse, top) * half;
  }
  return good;
}

void products_tail(const float* g, const float* x, int64_t i, int64_t n, int count, const float* inverse,
                   const float* top, double* sums) {
  for (; i < n; ++i) {
    for (int k = 0; k < count; ++k) sums[k] += double(g[i] * odd_code(x[i], inverse[k], top[k]));
  }
}

void mask_tail(const float* g, const float* x, int64_t i, int64_t n, float low, float high, float* dx) {
  for (; i < n; ++i) dx[i] = g[i] * float(int((x[i] >= low) & (x[i] <= high)));  // no branch
}

double learned_tail(const float* g, const float* x, int64_t i, int64_t n, float scale, float low, float high, float* dx,
                    double* lane) {
  for (; i < n; ++i) {
    const float v = x[i] / scale;
    const bool inside = v > low && v < high;
    dx[i] = g[i] * (inside ? 1.0f : 0.0f);
    const float term = inside ? std::nearbyintf(v) - v : v <= low ? low : v >= high ? high : v;  // NaN stays
    lane[i % LANES] += double(term * g[i]);
  }
  double sum = 0;
  for (int j = 0; j < LANES; ++j) sum += lane[j];
  return sum;
}

}  // namespace
}  // namespace qcore
