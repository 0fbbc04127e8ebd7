// Vectors of AVX-512 for depthwise_lines.hpp.
#pragma once

#include <immintrin.h>

#include "depthwise_lines.hpp"

namespace qcore {
namespace {

struct Lines512 {
  using vec = __m512i;
  using fvec = __m512;
  static constexpr int LANES = 16;

  static vec zero() { return _mm512_setzero_si512(); }
  static vec number(int32_t i) { return _mm512_set1_epi32(i); }
  static vec load32(const int32_t* p) { return _mm512_loadu_si512(p); }
  static vec load16(const int16_t* p) { return _mm512_loadu_si512(p); }
  static vec widen(const int8_t* p) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static vec interleave_low(vec a, vec b) { return _mm512_unpacklo_epi16(a, b); }
  static vec interleave_high(vec a, vec b) { return _mm512_unpackhi_epi16(a, b); }
  static vec dot16(vec acc, vec a, vec b) { return _mm512_dpwssd_epi32(acc, a, b); }
  static void in_order(vec low, vec high, vec* to) {
    const vec front = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const vec back = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    to[0] = _mm512_permutex2var_epi32(low, front, high);
    to[1] = _mm512_permutex2var_epi32(low, back, high);
  }
  static vec add32(vec a, vec b) { return _mm512_add_epi32(a, b); }
  static vec mul32(vec a, vec b) { return _mm512_mullo_epi32(a, b); }
  static fvec real(float f) { return _mm512_set1_ps(f); }
  static fvec load_reals(const float* p) { return _mm512_loadu_ps(p); }
  static fvec to_real(vec v) { return _mm512_cvtepi32_ps(v); }
  static fvec mul(fvec a, fvec b) { return _mm512_mul_ps(a, b); }
  static fvec add(fvec a, fvec b) { return _mm512_add_ps(a, b); }
  static void store_some(float* p, fvec v, int64_t n) {
    if (n >= 16) return _mm512_storeu_ps(p, v);
    if (n > 0) _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), v);
  }
};

}  // namespace

void depthwise_avx512(const DepthwiseLine& line) { depthwise_lines<Lines512>(line); }

}  // namespace qcore
