// 512-bit vectors with the dot product of AVX-512 VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace qcore {
namespace {

struct Avx512Vnni {
  using vec = __m512i;
  using fvec = __m512;
  static constexpr int LANES = 16, TILE_ROWS = 6;
  static constexpr bool DIRECT = true;

  static vec zero() { return _mm512_setzero_si512(); }
  static vec load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void store(uint8_t* p, vec v) { _mm512_storeu_si512(p, v); }
  static void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  static void pin(vec& a, vec& b) { asm volatile("" : "+v"(a), "+v"(b)); }
  static vec byte(uint8_t m) { return _mm512_set1_epi8(char(m)); }
  static vec band(vec a, vec b) { return _mm512_and_si512(a, b); }
  static vec bor(vec a, vec b) { return _mm512_or_si512(a, b); }
  template <int S>
  static vec shr16(vec a) {
    return _mm512_srli_epi16(a, S);
  }
  static vec quad(const int8_t* p) {
    int32_t q;
    std::memcpy(&q, p, 4);
    return _mm512_set1_epi32(q);
  }
  static vec dot(vec acc, vec u, vec x) { return _mm512_dpbusd_epi32(acc, u, x); }
  static vec add32(vec a, vec b) { return _mm512_add_epi32(a, b); }
  static vec sub32(vec a, vec b) { return _mm512_sub_epi32(a, b); }
  static vec mul32(vec a, vec b) { return _mm512_mullo_epi32(a, b); }
  static vec number(int32_t i) { return _mm512_set1_epi32(i); }
  static vec sra32(vec a, int n) { return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n)); }
  static vec srl32(vec a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
  static vec sll32(vec a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }

  static fvec real(float f) { return _mm512_set1_ps(f); }
  static fvec to_real(vec v) { return _mm512_cvtepi32_ps(v); }
  static fvec mul(fvec a, fvec b) { return _mm512_mul_ps(a, b); }
  static fvec add(fvec a, fvec b) { return _mm512_add_ps(a, b); }
  static fvec relu(fvec v) { return _mm512_max_ps(_mm512_setzero_ps(), v); }  // NaN stays: the second is returned
  static __mmask16 first(int n) { return __mmask16((1u << n) - 1); }
  static fvec load_reals(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_reals(float* p, fvec v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
};

}  // namespace
}  // namespace qcore
