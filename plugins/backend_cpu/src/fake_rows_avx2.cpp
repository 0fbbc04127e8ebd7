// Rows of fake quantization with AVX2; compiled with -mavx2: reached only where the processor has it.
#include <immintrin.h>

#include "fake_rows.hpp"
#include "fake_sums.hpp"

namespace qcore {
namespace {

constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// All ones where v is NaN or infinite.
inline __m256 not_finite(__m256 v) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
  return _mm256_cmp_ps(magnitude, _mm256_set1_ps(FINITE), _CMP_NLE_UQ);
}

template <bool AFFINE, bool DIVIDE, bool LIMIT>
bool grid_row(const float* x, int64_t n, const Fake& f, float* y) {
  const __m256 factor = _mm256_set1_ps(DIVIDE ? f.scale : f.inverse), scale = _mm256_set1_ps(f.scale);
  const __m256 low = _mm256_set1_ps(f.low), high = _mm256_set1_ps(f.high), zero = _mm256_set1_ps(f.zero);
  const __m256 top = _mm256_set1_ps(FINITE), bottom = _mm256_set1_ps(-FINITE);
  __m256 bad = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    bad = _mm256_or_ps(bad, not_finite(v));
    __m256 code = _mm256_round_ps(DIVIDE ? _mm256_div_ps(v, factor) : _mm256_mul_ps(v, factor), NEAREST);
    if (AFFINE) code = _mm256_add_ps(code, zero);
    code = _mm256_max_ps(low, _mm256_min_ps(high, code));  // the second operand where equal: -0 stays
    if (AFFINE) code = _mm256_sub_ps(code, zero);
    __m256 value = _mm256_mul_ps(code, scale);
    if (LIMIT) value = _mm256_max_ps(bottom, _mm256_min_ps(top, value));
    _mm256_storeu_ps(y + i, value);
  }
  return grid_tail(x, i, n, f, AFFINE, DIVIDE, y) && !_mm256_movemask_ps(bad);
}

bool round_to_grid(const float* x, int64_t n, const Fake& f, bool affine, bool divide, float* y) {
  if (!affine) return divide ? grid_row<false, true, false>(x, n, f, y) : grid_row<false, false, false>(x, n, f, y);
  const float bottom = (f.low - f.zero) * f.scale, top = (f.high - f.zero) * f.scale;
  if (finite(bottom) && finite(top)) {  // and so is what lies between
    return divide ? grid_row<true, true, false>(x, n, f, y) : grid_row<true, false, false>(x, n, f, y);
  }
  return divide ? grid_row<true, true, true>(x, n, f, y) : grid_row<true, false, true>(x, n, f, y);
}

bool round_to_sign(const float* x, int64_t n, float threshold, bool at, float magnitude, float* y) {
  const __m256 limit = _mm256_set1_ps(threshold), plus = _mm256_set1_ps(magnitude), minus = _mm256_set1_ps(-magnitude);
  __m256 bad = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    bad = _mm256_or_ps(bad, not_finite(v));
    const __m256 above = at ? _mm256_cmp_ps(v, limit, _CMP_GE_OQ) : _mm256_cmp_ps(v, limit, _CMP_GT_OQ);
    _mm256_storeu_ps(y + i, _mm256_blendv_ps(minus, plus, above));
  }
  return sign_tail(x, i, n, threshold, at, magnitude, y) && !_mm256_movemask_ps(bad);
}

inline __m256 odd_codes(__m256 x, __m256 inverse, __m256 bottom, __m256 top) {
  const __m256 step = _mm256_min_ps(top, _mm256_max_ps(bottom, _mm256_floor_ps(_mm256_mul_ps(x, inverse))));
  return _mm256_add_ps(_mm256_add_ps(step, step), _mm256_set1_ps(1.0f));
}

bool round_to_odd(const float* x, int64_t n, float inverse, float half, float top, float* y) {
  const __m256 factor = _mm256_set1_ps(inverse), low = _mm256_set1_ps(-top), high = _mm256_set1_ps(top - 1);
  __m256 bad = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    bad = _mm256_or_ps(bad, not_finite(v));
    _mm256_storeu_ps(y + i, _mm256_mul_ps(odd_codes(v, factor, low, high), _mm256_set1_ps(half)));
  }
  return odd_tail(x, i, n, inverse, half, top, y) && !_mm256_movemask_ps(bad);
}

// A width at a time: what the first one has read is in the nearest cache for the others.
void odd_products(const float* g, const float* x, int64_t n, int count, const float* inverse, const float* top,
                  double* sums) {
  int64_t whole = n - n % 8;
  for (int k = 0; k < count; ++k) {
    const __m256 factor = _mm256_set1_ps(inverse[k]);
    const __m256 low = _mm256_set1_ps(-top[k]), high = _mm256_set1_ps(top[k] - 1);
    __m256d first = _mm256_setzero_pd(), second = _mm256_setzero_pd();
    for (int64_t i = 0; i < whole; i += 8) {
      const __m256 codes = odd_codes(_mm256_loadu_ps(x + i), factor, low, high);
      const __m256 term = _mm256_mul_ps(codes, _mm256_loadu_ps(g + i));
      first = _mm256_add_pd(first, _mm256_cvtps_pd(_mm256_castps256_ps128(term)));
      second = _mm256_add_pd(second, _mm256_cvtps_pd(_mm256_extractf128_ps(term, 1)));
    }
    double lane[4];
    _mm256_storeu_pd(lane, _mm256_add_pd(first, second));
    sums[k] = lane[0] + lane[1] + lane[2] + lane[3];
  }
  products_tail(g, x, whole, n, count, inverse, top, sums);
}

// g * 1 where `inside` is all ones, else g * 0, which is NaN for an infinite g.
inline __m256 kept(__m256 g, __m256 inside) { return _mm256_mul_ps(g, _mm256_and_ps(inside, _mm256_set1_ps(1.0f))); }

void mask_gradient(const float* g, const float* x, int64_t n, float low, float high, float* dx) {
  const __m256 bottom = _mm256_set1_ps(low), top = _mm256_set1_ps(high);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    const __m256 inside = _mm256_and_ps(_mm256_cmp_ps(v, bottom, _CMP_GE_OQ), _mm256_cmp_ps(v, top, _CMP_LE_OQ));
    _mm256_storeu_ps(dx + i, kept(_mm256_loadu_ps(g + i), inside));
  }
  mask_tail(g, x, i, n, low, high, dx);
}

double learned_scale_gradients(const float* g, const float* x, int64_t n, float scale, float low, float high,
                               float* dx) {
  const __m256 s = _mm256_set1_ps(scale), bottom = _mm256_set1_ps(low), top = _mm256_set1_ps(high);
  __m256d first = _mm256_setzero_pd(), second = _mm256_setzero_pd();
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    const __m256 v = _mm256_div_ps(_mm256_loadu_ps(x + i), s), given = _mm256_loadu_ps(g + i);
    const __m256 inside = _mm256_and_ps(_mm256_cmp_ps(v, bottom, _CMP_GT_OQ), _mm256_cmp_ps(v, top, _CMP_LT_OQ));
    const __m256 off = _mm256_sub_ps(_mm256_round_ps(v, NEAREST), v);
    const __m256 clipped = _mm256_max_ps(bottom, _mm256_min_ps(top, v));  // NaN stays: it is the second operand
    const __m256 term = _mm256_mul_ps(_mm256_blendv_ps(clipped, off, inside), given);
    _mm256_storeu_ps(dx + i, kept(given, inside));
    first = _mm256_add_pd(first, _mm256_cvtps_pd(_mm256_castps256_ps128(term)));
    second = _mm256_add_pd(second, _mm256_cvtps_pd(_mm256_extractf128_ps(term, 1)));
  }
  double lane[LANES];
  _mm256_storeu_pd(lane, first);
  _mm256_storeu_pd(lane + 4, second);
  return learned_tail(g, x, i, n, scale, low, high, dx, lane);
}

struct Avx2Node {
  struct Eight {
    __m256d low, high;
  };

  template <bool MAGNITUDE, int LEVEL>
  static Eight columns(const float* x) {
    if constexpr (LEVEL == 0) {
      __m256 v = _mm256_loadu_ps(x);
      if (MAGNITUDE) v = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
      return {_mm256_cvtps_pd(_mm256_castps256_ps128(v)), _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1))};
    } else {
      const Eight a = columns<MAGNITUDE, LEVEL - 1>(x);
      const Eight b = columns<MAGNITUDE, LEVEL - 1>(x + (SUM_COLS << (LEVEL - 1)));
      return {_mm256_add_pd(a.low, b.low), _mm256_add_pd(a.high, b.high)};
    }
  }

  // What follows is fetched in the order of the memory: down the columns the processor does not see it coming.
  template <bool MAGNITUDE, int LEVEL>
  static void sum(const float* x, double* sum) {
    const float* ahead = x + AHEAD * (SUM_COLS << LEVEL);
    for (int j = 0; j < SUM_COLS; j += 8, ahead += 8 << LEVEL) {
      for (int k = 0; k < 8 << LEVEL; k += 16) _mm_prefetch(reinterpret_cast<const char*>(ahead + k), _MM_HINT_T0);
      const Eight eight = columns<MAGNITUDE, LEVEL>(x + j);
      _mm256_storeu_pd(sum + j, eight.low);
      _mm256_storeu_pd(sum + j + 4, eight.high);
    }
  }

  static constexpr int AHEAD = 2;
};

void sum_rows(const float* x, int64_t n, bool magnitude, double* row) {
  magnitude ? sum_rows<Avx2Node, true>(x, n, row) : sum_rows<Avx2Node, false>(x, n, row);
}

}  // namespace

extern const FakeKernels FAKE_AVX2 = {round_to_grid, round_to_sign, mask_gradient, learned_scale_gradients,
                                   round_to_odd,  odd_products,  sum_rows};

}  // namespace qcore
