// A vector of any length in portable C++, with the dot product of vpdpbusd. It is the portable path, and it runs the
// AVX-512 kernels' indexing where there is no such machine.
#pragma once

#include <cstdint>
#include <cstring>

namespace qcore {
namespace {

template <int N, int ROWS>
struct Emulated {
  static constexpr int LANES = N, GEMM_ROWS = ROWS;
  static constexpr bool DIRECT = true;

  struct vec {
    uint32_t lane[N];
  };

  static vec zero() { return {}; }
  static vec load(const uint8_t* p) {
    vec v;
    std::memcpy(v.lane, p, sizeof v.lane);
    return v;
  }
  static void store(uint8_t* p, const vec& v) { std::memcpy(p, v.lane, sizeof v.lane); }
  static void prefetch(const uint8_t*) {}
  static void pin(vec&, vec&) {}
  template <class F>
  static vec each(F f) {
    vec v;
    for (int i = 0; i < N; ++i) v.lane[i] = f(i);
    return v;
  }
  static vec byte(uint8_t m) { return each([=](int) { return m * 0x01010101u; }); }
  static vec band(const vec& a, const vec& b) { return each([&](int i) { return a.lane[i] & b.lane[i]; }); }
  static vec bor(const vec& a, const vec& b) { return each([&](int i) { return a.lane[i] | b.lane[i]; }); }
  template <int S>
  static vec shr16(const vec& a) {
    constexpr uint32_t keep = (0xFFFFu >> S) * 0x10001u;
    return each([&](int i) { return (a.lane[i] >> S) & keep; });
  }
  static vec quad(const int8_t* p) {
    uint32_t q;
    std::memcpy(&q, p, 4);
    return each([=](int) { return q; });
  }
  static vec dot(const vec& acc, const vec& u, const vec& x) {
    return each([&](int i) {
      int32_t sum = 0;
      for (int b = 0; b < 4; ++b) sum += int32_t(uint8_t(u.lane[i] >> (8 * b))) * int8_t(x.lane[i] >> (8 * b));
      return acc.lane[i] + uint32_t(sum);
    });
  }
  static vec widen(const vec& a, int n) { return sll32(a, n); }
  static vec add32(const vec& a, const vec& b) { return each([&](int i) { return a.lane[i] + b.lane[i]; }); }
  static vec sra32(const vec& a, int n) { return each([&](int i) { return uint32_t(int32_t(a.lane[i]) >> n); }); }
  static vec srl32(const vec& a, int n) { return each([&](int i) { return a.lane[i] >> n; }); }
  static vec sll32(const vec& a, int n) { return each([&](int i) { return a.lane[i] << n; }); }
};

}  // namespace
}  // namespace qcore
