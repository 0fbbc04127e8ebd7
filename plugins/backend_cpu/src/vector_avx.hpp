// 256-bit vectors of AVX2, with the dot product in 16-bit halves or, with AVX-VNNI, in one instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace qcore {
namespace {

struct Avx256 {
  using vec = __m256i;
  static constexpr int LANES = 8;

  static vec zero() { return _mm256_setzero_si256(); }
  static vec load(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const vec*>(p)); }
  static void store(uint8_t* p, vec v) { _mm256_storeu_si256(reinterpret_cast<vec*>(p), v); }
  static void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
  static void pin(vec& a, vec& b) { asm volatile("" : "+x"(a), "+x"(b)); }
  static vec byte(uint8_t m) { return _mm256_set1_epi8(char(m)); }
  static vec band(vec a, vec b) { return _mm256_and_si256(a, b); }
  static vec bor(vec a, vec b) { return _mm256_or_si256(a, b); }
  template <int S>
  static vec shr16(vec a) {
    return _mm256_srli_epi16(a, S);
  }
  static vec quad(const int8_t* p) {
    int32_t q;
    std::memcpy(&q, p, 4);
    return _mm256_set1_epi32(q);
  }
  static vec add32(vec a, vec b) { return _mm256_add_epi32(a, b); }
  static vec sra32(vec a, int n) { return _mm256_sra_epi32(a, _mm_cvtsi32_si128(n)); }
  static vec srl32(vec a, int n) { return _mm256_srl_epi32(a, _mm_cvtsi32_si128(n)); }
  static vec sll32(vec a, int n) { return _mm256_sll_epi32(a, _mm_cvtsi32_si128(n)); }
};

struct Avx2 : Avx256 {
  static constexpr int GEMM_ROWS = 6;
  static constexpr bool DIRECT = false;
  static vec dot(vec acc, vec u, vec x) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(u, x)); }
  static vec widen(vec acc, int n) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(int16_t(1 << n))); }
};

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
struct AvxVnni : Avx256 {
  static constexpr int TILE_ROWS = 2;
  static constexpr bool DIRECT = true;
#if defined(__AVXVNNI__)
  static vec dot(vec acc, vec u, vec x) { return _mm256_dpbusd_avx_epi32(acc, u, x); }
#else  // the same instruction in the encoding of AVX-512
  static vec dot(vec acc, vec u, vec x) { return _mm256_dpbusd_epi32(acc, u, x); }
#endif
  using fvec = __m256;
  static vec sub32(vec a, vec b) { return _mm256_sub_epi32(a, b); }
  static vec mul32(vec a, vec b) { return _mm256_mullo_epi32(a, b); }
  static vec number(int32_t i) { return _mm256_set1_epi32(i); }
  static fvec real(float f) { return _mm256_set1_ps(f); }
  static fvec to_real(vec v) { return _mm256_cvtepi32_ps(v); }
  static fvec mul(fvec a, fvec b) { return _mm256_mul_ps(a, b); }
  static fvec add(fvec a, fvec b) { return _mm256_add_ps(a, b); }
  static fvec relu(fvec v) { return _mm256_max_ps(_mm256_setzero_ps(), v); }  // NaN stays: the second is returned
  static vec first(int n) { return _mm256_cmpgt_epi32(number(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
  static fvec load_reals(const float* p, int n) { return n == 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first(n)); }
  static void store_reals(float* p, fvec v, int n) {
    if (n == 8) _mm256_storeu_ps(p, v);
    else _mm256_maskstore_ps(p, first(n), v);
  }
};
#endif

}  // namespace
}  // namespace qcore
