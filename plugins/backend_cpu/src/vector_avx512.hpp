// 512-bit vectors with the dot product of AVX-512 VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace qcore {
namespace {

struct Avx512Vnni {
  using vec = __m512i;
  static constexpr int LANES = 16, GEMM_ROWS = 12;
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
  static vec widen(vec acc, int n) { return sll32(acc, n); }
  static vec add32(vec a, vec b) { return _mm512_add_epi32(a, b); }
  static vec sra32(vec a, int n) { return _mm512_sra_epi32(a, _mm_cvtsi32_si128(n)); }
  static vec srl32(vec a, int n) { return _mm512_srl_epi32(a, _mm_cvtsi32_si128(n)); }
  static vec sll32(vec a, int n) { return _mm512_sll_epi32(a, _mm_cvtsi32_si128(n)); }
};

}  // namespace
}  // namespace qcore
