// Vectors of AVX2 for depthwise_lines.hpp.
#pragma once

#include <immintrin.h>

#include "depthwise_lines.hpp"

namespace qcore {
namespace {

struct Lines256 {
  using vec = __m256i;
  using fvec = __m256;
  static constexpr int LANES = 8;

  static vec zero() { return _mm256_setzero_si256(); }
  static vec number(int32_t i) { return _mm256_set1_epi32(i); }
  static vec load32(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const vec*>(p)); }
  static vec load16(const int16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const vec*>(p)); }
  static vec widen(const int8_t* p) { return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static vec interleave_low(vec a, vec b) { return _mm256_unpacklo_epi16(a, b); }
  static vec interleave_high(vec a, vec b) { return _mm256_unpackhi_epi16(a, b); }
  static vec dot16(vec acc, vec a, vec b) { return _mm256_add_epi32(acc, _mm256_madd_epi16(a, b)); }
  static void in_order(vec low, vec high, vec* to) {
    to[0] = _mm256_permute2x128_si256(low, high, 0x20);
    to[1] = _mm256_permute2x128_si256(low, high, 0x31);
  }
  static vec add32(vec a, vec b) { return _mm256_add_epi32(a, b); }
  static vec mul32(vec a, vec b) { return _mm256_mullo_epi32(a, b); }
  static fvec real(float f) { return _mm256_set1_ps(f); }
  static fvec load_reals(const float* p) { return _mm256_loadu_ps(p); }
  static fvec to_real(vec v) { return _mm256_cvtepi32_ps(v); }
  static fvec mul(fvec a, fvec b) { return _mm256_mul_ps(a, b); }
  static fvec add(fvec a, fvec b) { return _mm256_add_ps(a, b); }
  static void store_some(float* p, fvec v, int64_t n) {
    if (n >= 8) return _mm256_storeu_ps(p, v);
    const vec first = _mm256_cmpgt_epi32(number(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    if (n > 0) _mm256_maskstore_ps(p, first, v);
  }
};

}  // namespace

void depthwise_avx2(const DepthwiseLine& line) { depthwise_lines<Lines256>(line); }

}  // namespace qcore
