// A vector of any length by the compiler's vector extension, with the dot product of vpdpbusd. It is the portable path,
// and it runs the AVX-512 kernels' indexing where there is no such machine.
#pragma once

#include <cstdint>
#include <cstring>

namespace qcore {
namespace {

// The extension takes no size that depends on a template's parameter.
template <int N>
struct Words;

template <>
struct Words<8> {
  typedef uint32_t vec __attribute__((vector_size(32)));
  typedef int32_t signed_vec __attribute__((vector_size(32)));
  typedef float fvec __attribute__((vector_size(32)));
};

template <>
struct Words<16> {
  typedef uint32_t vec __attribute__((vector_size(64)));
  typedef int32_t signed_vec __attribute__((vector_size(64)));
  typedef float fvec __attribute__((vector_size(64)));
};

template <int N, int ROWS>
struct Emulated {
  static constexpr int LANES = N, TILE_ROWS = ROWS;
  static constexpr bool DIRECT = true;
  using vec = typename Words<N>::vec;
  using signed_vec = typename Words<N>::signed_vec;
  using fvec = typename Words<N>::fvec;

  static vec zero() { return vec{}; }
  static vec load(const uint8_t* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(uint8_t* p, const vec& v) { std::memcpy(p, &v, sizeof v); }
  static void prefetch(const uint8_t*) {}
  static void pin(vec&, vec&) {}
  static vec number(int32_t i) { return vec{} + uint32_t(i); }
  static vec byte(uint8_t m) { return vec{} + m * 0x01010101u; }
  static vec band(const vec& a, const vec& b) { return a & b; }
  static vec bor(const vec& a, const vec& b) { return a | b; }
  template <int S>
  static vec shr16(const vec& a) {
    return (a >> S) & ((0xFFFFu >> S) * 0x10001u);
  }
  static vec quad(const int8_t* p) {
    uint32_t q;
    std::memcpy(&q, p, 4);
    return vec{} + q;
  }
  static vec dot(const vec& acc, const vec& u, const vec& x) {
    vec sum = acc;
    for (int b = 0; b < 4; ++b) sum += (u >> (8 * b) & 0xFFu) * vec(signed_vec(x << (24 - 8 * b)) >> 24);
    return sum;
  }
  static vec add32(const vec& a, const vec& b) { return a + b; }
  static vec sub32(const vec& a, const vec& b) { return a - b; }
  static vec mul32(const vec& a, const vec& b) { return a * b; }
  static vec sra32(const vec& a, int n) { return vec(signed_vec(a) >> n); }
  static vec srl32(const vec& a, int n) { return a >> n; }
  static vec sll32(const vec& a, int n) { return a << n; }

  static fvec real(float f) { return fvec{} + f; }
  static fvec to_real(const vec& v) {
    return __builtin_convertvector((signed_vec)v, fvec);
  }
  static fvec mul(const fvec& a, const fvec& b) { return a * b; }
  static fvec add(const fvec& a, const fvec& b) { return a + b; }
  static fvec relu(const fvec& v) { return v < 0.0f ? fvec{} : v; }
  static fvec load_reals(const float* p, int n) {
    fvec v{};
    std::memcpy(&v, p, sizeof(float) * size_t(n));
    return v;
  }
  static void store_reals(float* p, const fvec& v, int n) { std::memcpy(p, &v, sizeof(float) * size_t(n)); }
};

}  // namespace
}  // namespace qcore
