// The kernels of floats.hpp for the vectors that the compiler has been told of. Included by one file an instruction set;
// everything is in an unnamed namespace, so that the linker never mixes code of two instruction sets.
#pragma once

#include <cmath>
#include <type_traits>

#include "floats.hpp"

namespace qcore {
namespace {

// How many sums fit the registers: MOST_ROWS rows by four vectors, or one row by WIDEST.
#if defined(__AVX512F__)
constexpr int VECTOR_NBYTES = 64, MOST_ROWS = 6, WIDEST = 16;
#elif defined(__AVX2__)
constexpr int VECTOR_NBYTES = 32, MOST_ROWS = 3, WIDEST = 8;
#else
constexpr int VECTOR_NBYTES = 16, MOST_ROWS = 2, WIDEST = 8;
#endif

// Vectors of floats, and of doubles made from half as many floats.
typedef float FloatVector __attribute__((vector_size(VECTOR_NBYTES)));
typedef double DoubleVector __attribute__((vector_size(VECTOR_NBYTES)));
typedef float Floats __attribute__((vector_size(VECTOR_NBYTES), aligned(4), may_alias));
typedef float HalfFloats __attribute__((vector_size(VECTOR_NBYTES / 2), aligned(4), may_alias));
typedef double Doubles __attribute__((vector_size(VECTOR_NBYTES), aligned(8), may_alias));

struct Single {
  using number = float;
  using vec = FloatVector;
  static vec load(const float* p) { return *reinterpret_cast<const Floats*>(p); }
  static void store(float* p, vec v) { *reinterpret_cast<Floats*>(p) = v; }
};

struct Double {
  using number = double;
  using vec = DoubleVector;
  static vec load(const float* p) { return __builtin_convertvector(*reinterpret_cast<const HalfFloats*>(p), vec); }
  static void store(double* p, vec v) { *reinterpret_cast<Doubles*>(p) = v; }
};

template <class V>
constexpr int LANES = VECTOR_NBYTES / int(sizeof(typename V::number));

// ROWS rows by COUNT vectors of outputs, of which `valid` exist.
template <class V, class X, int ROWS, int COUNT>
void tile(const float* w, int64_t width, const float* bias, int64_t features, const X* x, bool relu,
          typename V::number* y, int64_t outputs, int64_t valid) {
  using vec = typename V::vec;
  using number = typename V::number;
  constexpr int N = LANES<V>;
  vec acc[ROWS][COUNT];
  for (int j = 0; j < COUNT; ++j) {
    const vec b = V::load(bias + j * N);
    for (int r = 0; r < ROWS; ++r) acc[r][j] = b;
  }
  for (int64_t k = 0; k < features; ++k, w += width) {
    number factor[ROWS];
    for (int r = 0; r < ROWS; ++r) factor[r] = number(x[r * features + k]);
    for (int j = 0; j < COUNT; ++j) {
      const vec codes = V::load(w + j * N);
      for (int r = 0; r < ROWS; ++r) acc[r][j] += codes * factor[r];
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    number* to = y + r * outputs;
    for (int j = 0; j < COUNT; ++j) {
      const vec v = relu ? vec(acc[r][j] < 0 ? vec{} : acc[r][j]) : acc[r][j];
      const int64_t n = valid - j * N;
      if (n >= N) {
        V::store(to + j * N, v);
        continue;
      }
      number held[N];
      V::store(held, v);
      for (int i = 0; i < N; ++i) {
        if (i < n) to[j * N + i] = held[i];
      }
    }
  }
}

template <class V, class X, int ROWS, int COUNT>
void row_tiles(const float* w, int64_t width, const float* bias, int64_t features, const X* x, int64_t rows, bool relu,
               typename V::number* y, int64_t outputs, int64_t valid) {
  for (; rows >= ROWS; rows -= ROWS, x += ROWS * features, y += ROWS * outputs) {
    tile<V, X, ROWS, COUNT>(w, width, bias, features, x, relu, y, outputs, valid);
  }
  if constexpr (ROWS > 1) row_tiles<V, X, ROWS - 1, COUNT>(w, width, bias, features, x, rows, relu, y, outputs, valid);
}

template <class V, class X>
void panel(const FloatWeight& w, int64_t index, const X* x, int64_t rows, bool relu, typename V::number* y) {
  constexpr int N = LANES<V>;
  const int64_t first = index * PANEL_OUTPUTS, left = w.outputs - first;
  const int64_t valid = left < PANEL_OUTPUTS ? left : PANEL_OUTPUTS;
  const int64_t width = (valid + OUTPUT_BLOCK - 1) / OUTPUT_BLOCK * OUTPUT_BLOCK;
  const float* from = w.panels + first * w.features;
  auto run = [&](auto count, auto most, int64_t at) {
    row_tiles<V, X, most(), count()>(from + at, width, w.bias + first + at, w.features, x, rows, relu, y + first + at,
                                     w.outputs, valid - at);
  };
  int64_t at = 0;
  if (rows == 1) {  // a weight that is read once is best read in the order in which it lies
    const std::integral_constant<int, 1> one;
    for (; width - at >= WIDEST * N; at += WIDEST * N) run(std::integral_constant<int, WIDEST>(), one, at);
    for (; width - at >= 8 * N; at += 8 * N) run(std::integral_constant<int, 8>(), one, at);
  }
  const std::integral_constant<int, MOST_ROWS> most;
  for (; width - at >= 4 * N; at += 4 * N) run(std::integral_constant<int, 4>(), most, at);
  for (; width - at >= 2 * N; at += 2 * N) run(std::integral_constant<int, 2>(), most, at);
  if (at < width) run(std::integral_constant<int, 1>(), most, at);
}

void linear(const FloatWeight& w, int64_t index, const float* x, int64_t rows, bool relu, float* y) {
  panel<Single>(w, index, x, rows, relu, y);
}

void widening_linear(const FloatWeight& w, int64_t index, const float* x, int64_t rows, bool relu, double* y) {
  panel<Double>(w, index, x, rows, relu, y);
}

void wide_linear(const FloatWeight& w, int64_t index, const double* x, int64_t rows, bool relu, double* y) {
  panel<Double>(w, index, x, rows, relu, y);
}

// The sum of f(x[i]) in double.
template <class F>
double sum_of(const float* x, int64_t n, const F& f) {
  constexpr int N = LANES<Double>;
  DoubleVector acc[4] = {};
  int64_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) {
    for (int j = 0; j < 4; ++j) acc[j] += f(Double::load(x + i + j * N));
  }
  double total = 0;
  for (; i < n; ++i) total += f(double(x[i]));
  acc[0] = (acc[0] + acc[1]) + (acc[2] + acc[3]);
  for (int j = 0; j < N; ++j) total += acc[0][j];
  return total;
}

void layer_norm(const float* x, int64_t n, const float* weight, const float* bias, float eps, bool relu, float* y) {
  const double mean = sum_of(x, n, [](auto v) { return v; }) / double(n);
  const double var = sum_of(x, n, [mean](auto v) { return (v - mean) * (v - mean); }) / double(n);
  const double factor = 1.0 / std::sqrt(var + double(eps));
  const float low = relu ? 0.0f : -INFINITY;
  for (int64_t i = 0; i < n; ++i) {
    const float v = float((double(x[i]) - mean) * factor) * weight[i] + bias[i];
    y[i] = v < low ? low : v;
  }
}

inline float rounded_once(float x, float multiplier, float offset) {
#if defined(__FMA__)
  return __builtin_fmaf(x, multiplier, offset);
#else
  return float(double(x) * double(multiplier) + double(offset));  // but for one sum in some 2**29
#endif
}

void batch_norm(const float* x, int64_t n, float multiplier, float offset, bool relu, float* y) {
  const float low = relu ? 0.0f : -INFINITY;
  for (int64_t i = 0; i < n; ++i) {
    const float v = rounded_once(x[i], multiplier, offset);
    y[i] = v < low ? low : v;
  }
}

void batch_norm_each(const float* x, int64_t n, const float* multiplier, const float* offset, bool relu, float* y) {
  const float low = relu ? 0.0f : -INFINITY;
  for (int64_t i = 0; i < n; ++i) {
    const float v = rounded_once(x[i], multiplier[i], offset[i]);
    y[i] = v < low ? low : v;
  }
}

void standardize(const float* x, int64_t n, float mean, float std, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) / std;
}

void standardize_each(const float* x, int64_t n, const float* mean, const float* std, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean[i]) / std[i];
}

void relu(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] < 0 ? 0.0f : x[i];
}

void limit(const float* x, int64_t n, float top, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] > top ? top : x[i];
}

void add(const float* a, const float* b, int64_t n, bool relu, float* y) {
  const float low = relu ? 0.0f : -INFINITY;
  for (int64_t i = 0; i < n; ++i) {
    const float v = a[i] + b[i];
    y[i] = v < low ? low : v;
  }
}

inline float larger(float a, float b) { return a > b || a != a ? a : b; }

void pool_pairs(const float* upper, const float* lower, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) {
    y[i] = larger(larger(upper[2 * i], upper[2 * i + 1]), larger(lower[2 * i], lower[2 * i + 1]));
  }
}

void larger_bytes(const int8_t* x, int64_t n, int8_t* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] > y[i] ? x[i] : y[i];
}

constexpr FloatKernels FLOATS = {linear,     widening_linear, wide_linear, layer_norm,       batch_norm,
                                 batch_norm_each, standardize, standardize_each, relu, limit, add, pool_pairs,
                                 larger_bytes};

}  // namespace
}  // namespace qcore
