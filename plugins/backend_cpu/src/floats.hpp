// The float steps of a plan: what is compiled once for each width of vectors.
#pragma once

#include <cstdint>
#include <string>

namespace qcore {

// A float weight, prepared: outputs in panels of PANEL_OUTPUTS (the last one filled up to a multiple of OUTPUT_BLOCK),
// each panel (features, width of the panel); then the bias, filled up alike.
constexpr int64_t PANEL_OUTPUTS = 128;
constexpr int64_t OUTPUT_BLOCK = 16;

struct FloatWeight {
  const float* panels;
  const float* bias;
  int64_t features;
  int64_t outputs;

  int64_t count() const { return (outputs + PANEL_OUTPUTS - 1) / PANEL_OUTPUTS; }
};

struct FloatKernels {
  // Panel `index` of y (rows, outputs) = x (rows, features) W^T + bias; sums run over the features in order, so that a
  // row does not depend on its batch. In float, or in double from float or double.
  void (*linear)(const FloatWeight& w, int64_t index, const float* x, int64_t rows, bool relu, float* y);
  void (*widening_linear)(const FloatWeight& w, int64_t index, const float* x, int64_t rows, bool relu, double* y);
  void (*wide_linear)(const FloatWeight& w, int64_t index, const double* x, int64_t rows, bool relu, double* y);

  // One row of n: (x - mean) / sqrt(var + eps) * weight + bias, with its moments summed in double.
  void (*layer_norm)(const float* x, int64_t n, const float* weight, const float* bias, float eps, bool relu,
                     float* y);

  // y = x * multiplier + offset, rounded once; one of each for all n, or one for each.
  void (*batch_norm)(const float* x, int64_t n, float multiplier, float offset, bool relu, float* y);
  void (*batch_norm_each)(const float* x, int64_t n, const float* multiplier, const float* offset, bool relu,
                          float* y);

  // y = (x - mean) / std, the same way.
  void (*standardize)(const float* x, int64_t n, float mean, float std, float* y);
  void (*standardize_each)(const float* x, int64_t n, const float* mean, const float* std, float* y);

  // y = max(x, 0), and NaN of NaN.
  void (*relu)(const float* x, int64_t n, float* y);

  // y = min(x, top), and NaN of NaN.
  void (*limit)(const float* x, int64_t n, float top, float* y);

  // y = a + b.
  void (*add)(const float* a, const float* b, int64_t n, bool relu, float* y);

  // y[i] = the largest of two neighbours in each of two lines; NaN where one is.
  void (*pool_pairs)(const float* upper, const float* lower, int64_t n, float* y);

  // y = max(x, y), of codes.
  void (*larger_bytes)(const int8_t* x, int64_t n, int8_t* y);
};

extern const FloatKernels PORTABLE_FLOATS;
#if defined(QCORE_X86)
extern const FloatKernels AVX2_FLOATS, AVX512_FLOATS;
#endif

// What goes with an instruction set of machine.hpp.
const FloatKernels& floats_for(const std::string& isa);

}  // namespace qcore
