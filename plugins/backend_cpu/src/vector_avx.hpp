// 256-bit vectors of AVX2, with the dot product in 16-bit halves or, with AVX-VNNI, in one instruction.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace qcore {
namespace {

struct Avx256 {
  using vec = __m256i;
  static constexpr int LANES = 8, GEMM_ROWS = 6;

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
  static constexpr bool DIRECT = false;
  static vec dot(vec acc, vec u, vec x) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(u, x)); }
  static vec widen(vec acc, int n) { return _mm256_madd_epi16(acc, _mm256_set1_epi16(int16_t(1 << n))); }
};

#if defined(__AVXVNNI__)
struct AvxVnni : Avx256 {
  static constexpr bool DIRECT = true;
  static vec dot(vec acc, vec u, vec x) { return _mm256_dpbusd_avx_epi32(acc, u, x); }
  static vec widen(vec acc, int n) { return sll32(acc, n); }
};
#endif

}  // namespace
}  // namespace qcore
