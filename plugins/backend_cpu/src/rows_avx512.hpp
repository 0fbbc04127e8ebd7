// What AVX-512 does better than AVX2 among the row kernels: the coding of activations. The rest is that of AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace qcore {
namespace {

inline __mmask16 lanes_of(int64_t n) { return n >= 16 ? __mmask16(0xFFFF) : __mmask16((1u << n) - 1); }

void range512(const float* x, int64_t n, float* low, float* high) {
  // max(x, acc) gives acc where x is NaN.
  __m512 up[4], down[4];
  for (int j = 0; j < 4; ++j) up[j] = down[j] = _mm512_setzero_ps();
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    for (int j = 0; j < 4; ++j) {
      const __m512 v = _mm512_loadu_ps(x + i + 16 * j);
      up[j] = _mm512_max_ps(v, up[j]);
      down[j] = _mm512_min_ps(v, down[j]);
    }
  }
  for (; i < n; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(lanes_of(n - i), x + i);
    up[0] = _mm512_max_ps(v, up[0]);
    down[0] = _mm512_min_ps(v, down[0]);
  }
  *high = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(up[0], up[1]), _mm512_max_ps(up[2], up[3])));
  *low = _mm512_reduce_min_ps(_mm512_min_ps(_mm512_min_ps(down[0], down[1]), _mm512_min_ps(down[2], down[3])));
}

int64_t encode512(const float* x, int64_t n, float inverse, float low, float high, int less, int8_t* codes, bool* nan) {
  const __m512 scale = _mm512_set1_ps(inverse), bottom = _mm512_set1_ps(low), top = _mm512_set1_ps(high);
  const __m512i lessv = _mm512_set1_epi32(less);
  __mmask16 bad = 0;
  int64_t sum = 0, i = 0;
  while (i < n) {
    __m512i total = _mm512_setzero_si512();
    const int64_t stop = n - i < (1 << 20) ? n : i + (1 << 20);  // 2**16 codes a lane fit its 32 bits
    for (; i < stop; i += 16) {
      const __mmask16 m = lanes_of(stop - i);
      const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), scale);
      bad |= _mm512_mask_cmp_ps_mask(m, v, v, _CMP_UNORD_Q);
      const __m512i q = _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(v, top), bottom));
      const __m512i code = _mm512_maskz_sub_epi32(m, q, lessv);
      total = _mm512_add_epi32(total, code);
      const __m128i bytes = _mm512_cvtsepi32_epi8(code);
      if (stop - i >= 16) _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + i), bytes);
      else std::memcpy(codes + i, &bytes, size_t(stop - i));
    }
    sum += _mm512_reduce_add_epi32(total);
  }
  if (bad) *nan = true;
  return sum;
}

int64_t encode_within512(const float* x, int64_t n, float inverse, int8_t* codes, bool* nan) {
  const __m512 scale = _mm512_set1_ps(inverse);
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);  // packs go lane by lane
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i total = _mm512_setzero_si512(), least = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 64 <= n && i < (int64_t(1) << 24); i += 64) {  // 2**24 codes of 2**7 fit the 32 bits of 16 lanes
    __m512i q[4];
    for (int j = 0; j < 4; ++j) q[j] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i + 16 * j), scale));
    const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(q[0], q[1]), _mm512_packs_epi32(q[2], q[3]));
    const __m512i bytes = _mm512_permutexvar_epi32(order, packed);
    total = _mm512_dpbusd_epi32(total, ones, bytes);
    least = _mm512_min_epi8(least, bytes);
    _mm512_storeu_si512(codes + i, bytes);
  }
  // NaN becomes the least 32-bit number, and that -128, which no code is.
  if (_mm512_cmpeq_epi8_mask(least, _mm512_set1_epi8(-128))) *nan = true;
  const int64_t sum = _mm512_reduce_add_epi32(total);
  return i < n ? sum + encode512(x + i, n - i, inverse, -127, 127, 0, codes + i, nan) : sum;
}

inline void store_bytes512(__m512i code, int64_t n, int8_t* to) {
  const __m128i bytes = _mm512_cvtsepi32_epi8(code);
  if (n >= 16) _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  else std::memcpy(to, &bytes, size_t(n));
}

ByteSums encode_columns512(const float* x, int64_t n, const InputColumns& c, int less, int8_t* codes, int8_t* low,
                           bool* nan) {
  const __m512i lessv = _mm512_set1_epi32(less), byte = _mm512_set1_epi32(255), half = _mm512_set1_epi32(128);
  __mmask16 bad = 0;
  ByteSums sums{0, 0};
  int64_t i = 0;
  while (i < n) {
    __m512i total = _mm512_setzero_si512(), low_total = total;
    const int64_t stop = n - i < (1 << 20) ? n : i + (1 << 20);  // 2**16 codes a lane fit its 32 bits
    for (; i < stop; i += 16) {
      const __mmask16 m = lanes_of(stop - i);
      const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_maskz_loadu_ps(m, c.inverse + i));
      bad |= _mm512_mask_cmp_ps_mask(m, v, v, _CMP_UNORD_Q);
      const __m512 top = _mm512_maskz_loadu_ps(m, c.largest + i);
      const __m512 bottom = c.symmetric ? _mm512_sub_ps(_mm512_setzero_ps(), top) : _mm512_setzero_ps();
      const __m512 whole = _mm512_roundscale_ps(_mm512_max_ps(_mm512_min_ps(v, top), bottom), 8);  // to nearest even
      const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(whole, _mm512_maskz_loadu_ps(m, c.step + i)));
      const __m512i q = _mm512_maskz_sub_epi32(m, low ? _mm512_srai_epi32(code, 8) : code, lessv);
      total = _mm512_add_epi32(total, q);
      store_bytes512(q, stop - i, codes + i);
      if (!low) continue;
      const __m512i p = _mm512_maskz_sub_epi32(m, _mm512_and_si512(code, byte), half);
      low_total = _mm512_add_epi32(low_total, p);
      store_bytes512(p, stop - i, low + i);
    }
    sums.codes += _mm512_reduce_add_epi32(total);
    sums.low += _mm512_reduce_add_epi32(low_total);
  }
  if (bad) *nan = true;
  return sums;
}

}  // namespace
}  // namespace qcore
