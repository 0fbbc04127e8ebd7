// Rows of float activations by codes of 1 or 2 bits, several columns at a time: a register holds what the columns of a
// nibble (four of 1 bit, two of 2 bits) give for each of its sixteen values, and a look-up takes their sum. The planes
// are laid out for that, see put_nibble() in prepare.cpp.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace qcore {
namespace {

// B: row blocks of the panel that hold rows.
template <int P, int B>
struct Lookups512 {
  static constexpr int VECTOR = 64, PANEL = ROW_BLOCKS * 16;
  static constexpr int COLUMNS = 4 / P;       // of a nibble
  static constexpr int TABLES = 8 / COLUMNS;  // of a pair of quads
  static constexpr int ROWS_AT_ONCE = 5;      // their sums take 20 registers

  // What the columns of a nibble are multiplied by, for each of its values.
  struct Factors {
    __m512 of[COLUMNS];

    explicit Factors(const RealProduct& p) {
      for (int j = 0; j < COLUMNS; ++j) of[j] = numbers_of_nibbles(p, P * j, P);
    }

    inline __attribute__((always_inline)) __m512 table(const float* x) const {
      __m512 t = _mm512_mul_ps(of[0], _mm512_set1_ps(x[0]));
      _Pragma("GCC unroll 4") for (int j = 1; j < COLUMNS; ++j) t = _mm512_fmadd_ps(of[j], _mm512_set1_ps(x[j]), t);
      return t;
    }
  };

  // Table T of a pair: row block r's nibble of a lane is number `nibble_of` of vector `vector_of`.
  static constexpr int vector_of(int t) { return P == 1 ? 0 : t / 2; }
  static constexpr int nibble_of(int t, int r) { return P == 1 ? r + 4 * t : 2 * r + t % 2; }

  template <int T, int ROWS>
  static inline __attribute__((always_inline)) void look_up(const uint8_t* w, const float* x, ptrdiff_t stride,
                                                            const Factors& factors, __m512 (&acc)[ROWS][B]) {
    __m512 table[ROWS];
    _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) table[m] = factors.table(x + m * stride + T * COLUMNS);
    const __m512i v = _mm512_loadu_si512(w + vector_of(T) * VECTOR);
    _Pragma("GCC unroll 4") for (int r = 0; r < B; ++r) {
      const __m512i u = _mm512_srli_epi32(v, unsigned(4 * nibble_of(T, r)));  // the look-up takes the lowest four bits
      _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) {
        acc[m][r] = _mm512_add_ps(acc[m][r], _mm512_permutexvar_ps(u, table[m]));
      }
    }
  }

  template <int ROWS>
  static inline __attribute__((always_inline)) void pair(const uint8_t* w, const float* x, ptrdiff_t stride,
                                                         const Factors& factors, __m512 (&acc)[ROWS][B]) {
    look_up<0, ROWS>(w, x, stride, factors, acc);
    look_up<1, ROWS>(w, x, stride, factors, acc);
    if constexpr (TABLES > 2) {
      look_up<2, ROWS>(w, x, stride, factors, acc);
      look_up<3, ROWS>(w, x, stride, factors, acc);
    }
  }

  template <int ROWS>
  static void tile(const RealProduct& p, int first) {
    const Factors factors(p);
    __m512 y[ROWS][B];
    _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) {
      for (int r = 0; r < B; ++r) y[m][r] = _mm512_setzero_ps();
    }
    for (int segment = 0; segment < p.segments; ++segment) {
      __m512 acc[ROWS][B];
      _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) {
        for (int r = 0; r < B; ++r) acc[m][r] = _mm512_setzero_ps();
      }
      const uint8_t* w = p.plane + segment * p.segment_nbytes;
      const float* x = p.x + first * p.stride + segment * p.segment;
      int64_t n = segment + 1 < p.segments ? p.segment : p.last_segment;
      for (; n >= 8; n -= 8, w += PANEL * P, x += 8) pair<ROWS>(w, x, p.stride, factors, acc);
      if (n > 0) {
        float last[ROWS][8] = {};
        for (int m = 0; m < ROWS; ++m) std::memcpy(last[m], x + m * p.stride, size_t(n) * sizeof(float));
        pair<ROWS>(w, last[0], 8, factors, acc);
      }
      const float* scale = p.scale + ptrdiff_t(segment) * PANEL;
      _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) {
        for (int r = 0; r < B; ++r) {
          y[m][r] = _mm512_add_ps(y[m][r], _mm512_mul_ps(acc[m][r], _mm512_loadu_ps(scale + 16 * r)));
        }
      }
    }
    _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) finish_reals(p, first + m, y[m]);
  }

  static void all(const RealProduct& p, int rows) {
    const int count = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    for (int t = 0, first = 0; t < count; ++t) {
      const int n = (rows - first + count - t - 1) / (count - t);  // tiles of equal height
      switch (n) {
        case 1: tile<1>(p, first); break;
        case 2: tile<2>(p, first); break;
        case 3: tile<3>(p, first); break;
        case 4: tile<4>(p, first); break;
        default: tile<5>(p, first);
      }
      first += n;
    }
  }
};

}  // namespace
}  // namespace qcore
