// Activation codes and the epilogue with AVX2; the tails are the portable ones.
#pragma once

#include <immintrin.h>

#include "rows_portable.hpp"

namespace qcore {
namespace {

inline float largest_lane(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

inline int32_t sum_lanes(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xB1)));
}

void range(const float* x, int64_t n, float* low, float* high) {
  // max(x, acc) gives acc where x is NaN.
  __m256 up[4], down[4];
  for (int j = 0; j < 4; ++j) up[j] = down[j] = _mm256_setzero_ps();
  const __m256 sign = _mm256_set1_ps(-0.0f);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    for (int j = 0; j < 4; ++j) {
      const __m256 v = _mm256_loadu_ps(x + i + 8 * j);
      up[j] = _mm256_max_ps(v, up[j]);
      down[j] = _mm256_max_ps(_mm256_xor_ps(v, sign), down[j]);
    }
  }
  *high = largest_lane(_mm256_max_ps(_mm256_max_ps(up[0], up[1]), _mm256_max_ps(up[2], up[3])));
  *low = -largest_lane(_mm256_max_ps(_mm256_max_ps(down[0], down[1]), _mm256_max_ps(down[2], down[3])));
  range_tail(x, i, n, low, high);
}

int64_t encode(const float* x, int64_t n, float inverse, float low, float high, int less, int8_t* codes, bool* nan) {
  const __m256 scale = _mm256_set1_ps(inverse), bottom = _mm256_set1_ps(low), top = _mm256_set1_ps(high);
  const __m256i lessv = _mm256_set1_epi32(less), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256 bad = _mm256_setzero_ps();
  int64_t sum = 0, i = 0;
  while (i + 32 <= n) {
    __m256i total = _mm256_setzero_si256();
    const int64_t stop = n - i < (1 << 20) ? n : i + (1 << 20);  // 2**20 * 255 fits a 32-bit lane
    for (; i + 32 <= stop; i += 32) {
      __m256i q[4];
      for (int j = 0; j < 4; ++j) {
        const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * j), scale);
        bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        q[j] = _mm256_sub_epi32(_mm256_cvtps_epi32(_mm256_max_ps(_mm256_min_ps(v, top), bottom)), lessv);
        total = _mm256_add_epi32(total, q[j]);
      }
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), _mm256_permutevar8x32_epi32(bytes, order));
    }
    sum += sum_lanes(total);
  }
  if (_mm256_movemask_ps(bad)) *nan = true;
  return sum + encode_tail(x, i, n, inverse, low, high, less, codes, nan);
}

ByteSums encode_columns(const float* x, int64_t n, const InputColumns& c, int less, int8_t* codes, int8_t* low,
                        bool* nan) {
  const __m256i lessv = _mm256_set1_epi32(less), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i byte = _mm256_set1_epi32(255), half = _mm256_set1_epi32(128);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 bad = _mm256_setzero_ps();
  ByteSums sums{0, 0};
  int64_t i = 0;
  while (i + 32 <= n) {
    __m256i total = _mm256_setzero_si256(), low_total = total;
    const int64_t stop = n - i < (1 << 20) ? n : i + (1 << 20);  // 2**20 * 255 fits a 32-bit lane
    for (; i + 32 <= stop; i += 32) {
      __m256i q[4], p[4];
      for (int j = 0; j < 4; ++j) {
        const int64_t k = i + 8 * j;
        const __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + k), _mm256_loadu_ps(c.inverse + k));
        bad = _mm256_or_ps(bad, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        const __m256 top = _mm256_loadu_ps(c.largest + k);
        const __m256 bottom = c.symmetric ? _mm256_xor_ps(top, sign) : _mm256_setzero_ps();
        const __m256 whole = _mm256_round_ps(_mm256_max_ps(_mm256_min_ps(v, top), bottom), 8);  // to nearest even
        const __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(whole, _mm256_loadu_ps(c.step + k)));
        q[j] = _mm256_sub_epi32(low ? _mm256_srai_epi32(code, 8) : code, lessv);
        p[j] = _mm256_sub_epi32(_mm256_and_si256(code, byte), half);
        total = _mm256_add_epi32(total, q[j]);
        low_total = _mm256_add_epi32(low_total, p[j]);
      }
      const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes + i), _mm256_permutevar8x32_epi32(bytes, order));
      if (!low) continue;
      const __m256i lows = _mm256_packs_epi16(_mm256_packs_epi32(p[0], p[1]), _mm256_packs_epi32(p[2], p[3]));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(low + i), _mm256_permutevar8x32_epi32(lows, order));
    }
    sums.codes += sum_lanes(total);
    sums.low += sum_lanes(low_total);
  }
  if (_mm256_movemask_ps(bad)) *nan = true;
  columns_tail(x, i, n, c, less, codes, low, nan, &sums);
  return sums;
}

int64_t sum(const int8_t* codes, int64_t n) {
  const __m256i flip = _mm256_set1_epi8(char(0x80));
  __m256i total = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
    total = _mm256_add_epi64(total, _mm256_sad_epu8(_mm256_xor_si256(v, flip), _mm256_setzero_si256()));
  }
  alignas(32) int64_t lane[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lane), total);
  return lane[0] + lane[1] + lane[2] + lane[3] - 128 * i + sum_tail(codes, i, n);
}

void scale(const int32_t* s, int64_t n, int32_t step, const int32_t* offset, int32_t total, int32_t shift,
           const int32_t* sum, float x_scale, const float* scale, bool add, float* out) {
  const __m256i a = _mm256_set1_epi32(step), t = _mm256_set1_epi32(total), c = _mm256_set1_epi32(shift);
  const __m256 sx = _mm256_set1_ps(x_scale);
  auto load = [](const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256i acc = load(s + i);
    if (step != 1) acc = _mm256_mullo_epi32(acc, a);
    acc = _mm256_add_epi32(acc, _mm256_mullo_epi32(load(offset + i), t));
    if (shift != 0) acc = _mm256_add_epi32(acc, _mm256_mullo_epi32(load(sum + i), c));
    const __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_mul_ps(sx, _mm256_loadu_ps(scale + i)));
    _mm256_storeu_ps(out + i, add ? _mm256_add_ps(_mm256_loadu_ps(out + i), y) : y);
  }
  scale_tail(s, i, n, step, offset, total, shift, sum, x_scale, scale, add, out);
}

void widen(const uint8_t* panel, int quads, int lanes, int32_t step, const int32_t* offset, float* tile) {
  const __m256i byte = _mm256_set1_epi32(0xFF), a = _mm256_set1_epi32(step);
  const int rows = ROW_BLOCKS * lanes;
  for (int q = 0; q < quads; ++q, panel += 4 * rows, tile += 4 * rows) {
    for (int r = 0; r < rows; r += 8) {
      const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(panel + 4 * r));
      const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(offset + r));
      const __m256i u[4] = {_mm256_and_si256(v, byte), _mm256_and_si256(_mm256_srli_epi32(v, 8), byte),
                            _mm256_and_si256(_mm256_srli_epi32(v, 16), byte), _mm256_srli_epi32(v, 24)};
      for (int j = 0; j < 4; ++j) {
        const __m256i code = _mm256_add_epi32(step == 1 ? u[j] : _mm256_mullo_epi32(u[j], a), b);
        _mm256_storeu_ps(tile + j * rows + r, _mm256_cvtepi32_ps(code));
      }
    }
  }
}

template <int ROWS>
inline void real_tile(const float* tile, int n, int width, const float* x, ptrdiff_t stride, float* sums) {
  __m256 acc[ROWS][2];
  _Pragma("GCC unroll 6") for (int m = 0; m < ROWS; ++m) {
    for (int r = 0; r < 2; ++r) acc[m][r] = _mm256_loadu_ps(sums + m * width + 8 * r);
  }
  for (int k = 0; k < n; ++k, tile += width) {
    const __m256 w0 = _mm256_loadu_ps(tile), w1 = _mm256_loadu_ps(tile + 8);
    _Pragma("GCC unroll 6") for (int m = 0; m < ROWS; ++m) {
      const __m256 q = _mm256_broadcast_ss(x + m * stride + k);
      acc[m][0] = _mm256_fmadd_ps(w0, q, acc[m][0]);
      acc[m][1] = _mm256_fmadd_ps(w1, q, acc[m][1]);
      asm volatile("" : "+x"(acc[m][0]), "+x"(acc[m][1]));  // or the compiler runs out of registers
    }
  }
  _Pragma("GCC unroll 6") for (int m = 0; m < ROWS; ++m) {
    for (int r = 0; r < 2; ++r) _mm256_storeu_ps(sums + m * width + 8 * r, acc[m][r]);
  }
}

// One row of activations: two row blocks are too few to hide the latency of the sums.
inline void real_row(const float* tile, int n, int width, const float* x, float* sums) {
  for (int first = 0; first < width; first += 32) {
    __m256 even[4], odd[4];
    for (int r = 0; r < 4; ++r) even[r] = _mm256_loadu_ps(sums + first + 8 * r), odd[r] = _mm256_setzero_ps();
    int k = 0;
    for (; k + 2 <= n; k += 2) {
      const __m256 a = _mm256_broadcast_ss(x + k), b = _mm256_broadcast_ss(x + k + 1);
      const float* w = tile + k * width + first;
      for (int r = 0; r < 4; ++r) even[r] = _mm256_fmadd_ps(_mm256_loadu_ps(w + 8 * r), a, even[r]);
      for (int r = 0; r < 4; ++r) odd[r] = _mm256_fmadd_ps(_mm256_loadu_ps(w + width + 8 * r), b, odd[r]);
    }
    for (; k < n; ++k) {
      const __m256 a = _mm256_broadcast_ss(x + k);
      for (int r = 0; r < 4; ++r) {
        even[r] = _mm256_fmadd_ps(_mm256_loadu_ps(tile + k * width + first + 8 * r), a, even[r]);
      }
    }
    for (int r = 0; r < 4; ++r) _mm256_storeu_ps(sums + first + 8 * r, _mm256_add_ps(even[r], odd[r]));
  }
}

void real_gemm(const float* tile, int n, int width, const float* x, ptrdiff_t stride, int rows, float* sums) {
  if (rows == 1) return real_row(tile, n, width, x, sums);
  for (int first = 0; first < width; first += 16) {
    int m = 0;
    for (; m + 6 <= rows; m += 6) {
      real_tile<6>(tile + first, n, width, x + m * stride, stride, sums + m * width + first);
    }
    const float* xm = x + m * stride;
    float* to = sums + m * width + first;
    switch (rows - m) {
      case 5: real_tile<5>(tile + first, n, width, xm, stride, to); break;
      case 4: real_tile<4>(tile + first, n, width, xm, stride, to); break;
      case 3: real_tile<3>(tile + first, n, width, xm, stride, to); break;
      case 2: real_tile<2>(tile + first, n, width, xm, stride, to); break;
      case 1: real_tile<1>(tile + first, n, width, xm, stride, to); break;
      default: break;
    }
  }
}

void real_scale(const float* s, int64_t n, const float* scale, bool add, float* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 y = _mm256_mul_ps(_mm256_loadu_ps(s + i), _mm256_loadu_ps(scale + i));
    _mm256_storeu_ps(out + i, add ? _mm256_add_ps(_mm256_loadu_ps(out + i), y) : y);
  }
  real_scale_tail(s, i, n, scale, add, out);
}

inline void transpose8(const float* from, ptrdiff_t fs, float* to, ptrdiff_t ts) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(from + i * fs);
  for (int i = 0; i < 8; i += 2) b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44), a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xEE);
    a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44), a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    _mm256_storeu_ps(to + i * ts, _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
    _mm256_storeu_ps(to + (i + 4) * ts, _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
  }
}

void transpose(const float* from, ptrdiff_t fs, int rows, int cols, float* to, ptrdiff_t ts) {
  const int r8 = rows & ~7, c8 = cols & ~7;
  for (int c = 0; c < c8; c += 8) {
    for (int r = 0; r < r8; r += 8) transpose8(from + r * fs + c, fs, to + c * ts + r, ts);
  }
  transpose_tail(from, fs, r8, rows, 0, c8, to, ts);
  transpose_tail(from, fs, 0, rows, c8, cols, to, ts);
}

// Four rounds of interleaving row i with row i + 8 put byte c of row r at byte r of row c.
inline void transpose16(const int8_t* from, ptrdiff_t fs, int8_t* to, ptrdiff_t ts) {
  __m128i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i * fs));
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) {
      b[2 * i] = _mm_unpacklo_epi8(a[i], a[i + 8]);
      b[2 * i + 1] = _mm_unpackhi_epi8(a[i], a[i + 8]);
    }
    for (int i = 0; i < 16; ++i) a[i] = b[i];
  }
  for (int i = 0; i < 16; ++i) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * ts), a[i]);
}

void transpose_bytes(const int8_t* from, ptrdiff_t fs, int rows, int cols, int8_t* to, ptrdiff_t ts) {
  const int r16 = rows & ~15, c16 = cols & ~15;
  for (int c = 0; c < c16; c += 16) {
    for (int r = 0; r < r16; r += 16) transpose16(from + r * fs + c, fs, to + c * ts + r, ts);
  }
  transpose_tail(from, fs, r16, rows, 0, c16, to, ts);
  transpose_tail(from, fs, 0, rows, c16, cols, to, ts);
}

void finite_range(const float* x, int64_t n, float* low, float* high, bool* bad) {
  __m256 nan = _mm256_setzero_ps();
  __m256 up[2], down[2];
  for (int j = 0; j < 2; ++j) up[j] = down[j] = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int j = 0; j < 2; ++j) {
      const __m256 v = _mm256_loadu_ps(x + i + 8 * j);
      nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
      up[j] = _mm256_max_ps(v, up[j]);
      down[j] = _mm256_min_ps(v, down[j]);
    }
  }
  *high = largest_lane(_mm256_max_ps(up[0], up[1]));
  *low = -largest_lane(_mm256_xor_ps(_mm256_min_ps(down[0], down[1]), _mm256_set1_ps(-0.0f)));
  range_tail(x, i, n, low, high);
  *bad = _mm256_movemask_ps(nan) != 0 || nan_tail(x, i, n);
}

void fake(const float* x, int64_t n, const Fake& f, bool symmetric, float* y) {
  constexpr int NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m256 inverse = _mm256_set1_ps(f.inverse), scale = _mm256_set1_ps(f.scale), zero = _mm256_set1_ps(f.zero);
  const __m256 low = _mm256_set1_ps(f.low), high = _mm256_set1_ps(f.high), limit = _mm256_set1_ps(0x1.fffffep127f);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 code = _mm256_round_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), inverse), NEAREST);
    if (!symmetric) code = _mm256_add_ps(code, zero);
    code = _mm256_max_ps(low, _mm256_min_ps(high, code));  // the second operand where equal: -0 stays
    if (!symmetric) code = _mm256_sub_ps(code, zero);
    __m256 value = _mm256_mul_ps(code, scale);
    if (!symmetric) value = _mm256_max_ps(_mm256_xor_ps(limit, sign), _mm256_min_ps(limit, value));
    _mm256_storeu_ps(y + i, value);
  }
  fake_tail(x, i, n, f, symmetric, y);
}

void finish(float* y, int64_t n, const float* bias, bool relu) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    __m256 v = _mm256_add_ps(_mm256_loadu_ps(y + i), _mm256_loadu_ps(bias + i));
    if (relu) v = _mm256_max_ps(_mm256_setzero_ps(), v);  // NaN stays: the second operand is returned
    _mm256_storeu_ps(y + i, v);
  }
  finish_tail(y, i, n, bias, relu);
}

}  // namespace
}  // namespace qcore
