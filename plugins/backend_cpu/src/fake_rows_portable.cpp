// The portable rows of fake quantization.
#include "fake_rows.hpp"
#include "fake_sums.hpp"

namespace qcore {
namespace {

bool round_to_grid(const float* x, int64_t n, const Fake& f, bool affine, bool divide, float* y) {
  return grid_tail(x, 0, n, f, affine, divide, y);
}

bool round_to_sign(const float* x, int64_t n, float threshold, bool at, float magnitude, float* y) {
  return sign_tail(x, 0, n, threshold, at, magnitude, y);
}

bool round_to_odd(const float* x, int64_t n, float inverse, float half, float top, float* y) {
  return odd_tail(x, 0, n, inverse, half, top, y);
}

void odd_products(const float* g, const float* x, int64_t n, int count, const float* inverse, const float* top,
                  double* sums) {
  for (int k = 0; k < count; ++k) sums[k] = 0;
  products_tail(g, x, 0, n, count, inverse, top, sums);
}

void mask_gradient(const float* g, const float* x, int64_t n, float low, float high, float* dx) {
  mask_tail(g, x, 0, n, low, high, dx);
}

double learned_scale_gradients(const float* g, const float* x, int64_t n, float scale, float low, float high,
                               float* dx) {
  double lane[LANES] = {};
  return learned_tail(g, x, 0, n, scale, low, high, dx, lane);
}

struct PortableNode {
  template <bool MAGNITUDE, int LEVEL>
  static double column(const float* x) {
    if constexpr (LEVEL == 0) return double(MAGNITUDE ? std::fabs(*x) : *x);
    else return column<MAGNITUDE, LEVEL - 1>(x) + column<MAGNITUDE, LEVEL - 1>(x + (SUM_COLS << (LEVEL - 1)));
  }

  template <bool MAGNITUDE, int LEVEL>
  static void sum(const float* x, double* sum) {
    for (int j = 0; j < SUM_COLS; ++j) sum[j] = column<MAGNITUDE, LEVEL>(x + j);
  }
};

void sum_rows(const float* x, int64_t n, bool magnitude, double* row) {
  magnitude ? sum_rows<PortableNode, true>(x, n, row) : sum_rows<PortableNode, false>(x, n, row);
}

}  // namespace

extern const FakeKernels FAKE_PORTABLE = {round_to_grid, round_to_sign, mask_gradient, learned_scale_gradients,
                                   round_to_odd,  odd_products,  sum_rows};

}  // namespace qcore
