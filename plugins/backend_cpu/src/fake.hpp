// Fake quantization for training: from floats to the floats that the codes stand for, in one pass each way.
#pragma once

#include <cstdint>

#include "product.hpp"

namespace qcore {

// What differs between instruction sets; a row is n elements of one slice. The first two return whether x is finite.
struct FakeKernels {
  // y by the formula of Fake; without its zero if not `affine`, and else limited to finite numbers; x / scale takes the
  // place of x * inverse if `divide`.
  bool (*round_to_grid)(const float* x, int64_t n, const Fake& f, bool affine, bool divide, float* y);

  // y = magnitude where x > threshold (or x = threshold, if `at`), else -magnitude.
  bool (*round_to_sign)(const float* x, int64_t n, float threshold, bool at, float magnitude, float* y);

  // dx = g * 1[low <= x <= high].
  void (*mask_gradient)(const float* g, const float* x, int64_t n, float low, float high, float* dx);

  // dx = g * 1[low < x / scale < high]; returns the sum of g times what the scale's gradient takes of each element.
  double (*learned_scale_gradients)(const float* g, const float* x, int64_t n, float scale, float low, float high,
                                    float* dx);

  // y = code * half with code = 2 clamp(floor(x * inverse), -top, top - 1) + 1; whether x is finite.
  bool (*round_to_odd)(const float* x, int64_t n, float inverse, float half, float top, float* y);

  // sums[k] = the sum of g * code, for the codes of inverse[k] and top[k], of which there are `count`.
  void (*odd_products)(const float* g, const float* x, int64_t n, int count, const float* inverse, const float* top,
                       double* sums);

  // row (128,) = the sum of the rows of 128 columns of x, or of its magnitudes: fake_sums.hpp.
  void (*sum_rows)(const float* x, int64_t n, bool magnitude, double* row);
};

extern const FakeKernels FAKE_PORTABLE;
#if defined(QCORE_X86)
extern const FakeKernels FAKE_AVX2;
#endif

// One number a slice, or one for all.
struct PerSlice {
  const float* values;
  bool each;

  float at(int64_t slice) const { return values[each ? slice : 0]; }
};

// What the slices of x are rounded to: Fake, slice by slice.
struct FakeGrid {
  PerSlice inverse;  // null: x / scale
  PerSlice scale;
  PerSlice zero;  // null: none
  float low, high;
};

// Each takes x (slices, n); those that return bool say whether x is finite.

// y = x with each slice rounded to `bits` bits over its own range, which if symmetric is at least `floor`.
bool fake_quantize(const RowKernels& rows, const float* x, int64_t slices, int64_t n, int bits, bool symmetric,
                   float floor, float* y, int threads);

bool fake_to_grid(const FakeKernels& kernels, const float* x, int64_t slices, int64_t n, const FakeGrid& grid, float* y,
                  int threads);

// Without a threshold, the sign of zero is +.
bool fake_to_sign(const FakeKernels& kernels, const float* x, int64_t slices, int64_t n, const PerSlice& threshold,
                  const PerSlice& magnitude, float* y, int threads);

bool fake_to_odd(const FakeKernels& kernels, const float* x, int64_t slices, int64_t n, const PerSlice& inverse,
                 const PerSlice& half, const PerSlice& top, float* y, int threads);

// products (slices, count) = half * the sum of g * code; inverse and half are (slices, count), top is (count,).
void fake_odd_products(const FakeKernels& kernels, const float* g, const float* x, int64_t slices, int64_t n, int count,
                       const float* inverse, const float* half, const float* top, float* products, int threads);

void fake_mask(const FakeKernels& kernels, const float* g, const float* x, int64_t slices, int64_t n,
               const PerSlice& low, const PerSlice& high, float* dx, int threads);

// sums (slices,) of x or of its magnitudes, in the order of qcore.tensor.sums.
void fake_sums(const FakeKernels& kernels, const float* x, int64_t slices, int64_t n, bool magnitude, double* sums,
               int threads);

// dscale (slices,), or one number if `scale` is one: summed in float64, whatever the number of threads in one order.
void fake_learned(const FakeKernels& kernels, const float* g, const float* x, int64_t slices, int64_t n,
                  const PerSlice& scale, float low, float high, float* dx, float* dscale, int threads);

}  // namespace qcore
