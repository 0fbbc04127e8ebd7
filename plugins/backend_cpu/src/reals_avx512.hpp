// Few rows of float activations. For codes of 1, 2 or 4 bits a register of sixteen floats turns a code into its number,
// so that a weight costs a shift, a look-up and the multiply-add; bytes are converted.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels.hpp"

namespace qcore {
namespace {

// For each value of a nibble, the number of the code of `bits` bits that lies `place` bits up in it.
inline __m512 numbers_of_nibbles(const RealProduct& p, int place, int bits) {
  const __m512i all = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i code = _mm512_and_si512(_mm512_srl_epi32(all, _mm_cvtsi32_si128(place)), _mm512_set1_epi32((1 << bits) - 1));
  const __m512i scaled = _mm512_mullo_epi32(code, _mm512_set1_epi32(p.step));
  return _mm512_cvtepi32_ps(_mm512_add_epi32(scaled, _mm512_set1_epi32(p.offset)));
}

// Bias, ReLU and the rows that exist, of row `row` of the activations.
template <int B>
inline __attribute__((always_inline)) void finish_reals(const RealProduct& p, int row, const __m512 (&y)[B]) {
  for (int r = 0; r < B && 16 * r < p.valid; ++r) {
    const int left = p.valid - 16 * r;
    const __mmask16 valid = left < 16 ? __mmask16((1u << left) - 1) : __mmask16(0xFFFF);
    __m512 v = _mm512_add_ps(y[r], _mm512_loadu_ps(p.bias + 16 * r));
    if (p.relu) v = _mm512_max_ps(_mm512_setzero_ps(), v);  // NaN stays: the second is returned
    _mm512_mask_storeu_ps(p.y + row * p.y_stride + 16 * r, valid, v);
  }
}

}  // namespace
}  // namespace qcore

#include "lookups_avx512.hpp"

namespace qcore {
namespace {

constexpr int REAL_ROWS = 5;  // rows of activations at once: their sums take 20 registers

// B: row blocks of the panel that hold rows.
template <int P, int B>
struct Reals512 {
  static constexpr int VECTOR = 64, PANEL = ROW_BLOCKS * 16;

  // Sums of every second or fourth column, added up at the end, where few sums would wait for one another.
  static constexpr int chains(int rows) { return rows * B >= 8 ? 1 : rows * B >= 4 ? 2 : 4; }

  // The vector that holds row block r of quad `half` of a pair, and the place of its field.
  static constexpr int vector_of(int half, int r) {
    return P == 8 ? half * 4 + r : P == 4 ? half * 2 + (r & 1) : P == 2 ? half : 0;
  }
  static constexpr int place_of(int half, int r) {
    return P == 8 ? 0 : P == 4 ? (r & 2 ? 4 : 0) : P == 2 ? 2 * r : r + 4 * half;
  }

  // From codes to numbers.
  struct Numbers {
    __m512 table;  // of all codes; the look-up takes the lowest four bits, so it repeats where a code has fewer
    __m512 step, offset;

    explicit Numbers(const RealProduct& p)
        : table(numbers_of_nibbles(p, 0, P)), step(_mm512_set1_ps(float(p.step))),
          offset(_mm512_set1_ps(float(p.offset))) {}

    // Of the codes that lie `place` bits up in each lane.
    inline __attribute__((always_inline)) __m512 of(__m512i v, int place) const {
      const __m512i u = _mm512_srli_epi32(v, unsigned(place));
      if constexpr (P < 8) return _mm512_permutexvar_ps(u, table);
      return _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_and_si512(u, _mm512_set1_epi32(0xFF))), step, offset);
    }
  };

  template <int HALF, int J, int ROWS>
  static inline __attribute__((always_inline)) void column(const uint8_t* w, const float* x, ptrdiff_t stride,
                                                           const Numbers& numbers,
                                                           __m512 (&sums)[chains(ROWS)][ROWS][B]) {
    auto& acc = sums[J % chains(ROWS)];
    _Pragma("GCC unroll 4") for (int r = 0; r < B; ++r) {
      const __m512i v = _mm512_loadu_si512(w + vector_of(HALF, r) * VECTOR);
      const __m512 code = numbers.of(v, 8 * J + place_of(HALF, r));
      _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) {
        acc[m][r] = _mm512_fmadd_ps(code, _mm512_set1_ps(x[m * stride]), acc[m][r]);
      }
    }
  }

  // The first n columns of a quad.
  template <int HALF, int ROWS>
  static inline __attribute__((always_inline)) void quad(const uint8_t* w, const float* x, ptrdiff_t stride,
                                                         int64_t n, const Numbers& numbers,
                                                         __m512 (&acc)[chains(ROWS)][ROWS][B]) {
    if (n > 0) column<HALF, 0, ROWS>(w, x, stride, numbers, acc);
    if (n > 1) column<HALF, 1, ROWS>(w, x + 1, stride, numbers, acc);
    if (n > 2) column<HALF, 2, ROWS>(w, x + 2, stride, numbers, acc);
    if (n > 3) column<HALF, 3, ROWS>(w, x + 3, stride, numbers, acc);
  }

  template <int ROWS>
  static void tile(const RealProduct& p, int first) {
    const Numbers numbers(p);
    __m512 y[ROWS][B];
    _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) {
      for (int r = 0; r < B; ++r) y[m][r] = _mm512_setzero_ps();
    }
    for (int segment = 0; segment < p.segments; ++segment) {
      __m512 acc[chains(ROWS)][ROWS][B];
      for (int c = 0; c < chains(ROWS); ++c) {
        _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) {
          for (int r = 0; r < B; ++r) acc[c][m][r] = _mm512_setzero_ps();
        }
      }
      const uint8_t* w = p.plane + segment * p.segment_nbytes;
      const float* x = p.x + first * p.stride + segment * p.segment;
      int64_t n = segment + 1 < p.segments ? p.segment : p.last_segment;
      for (; n >= 8; n -= 8, w += PANEL * P, x += 8) {
        quad<0, ROWS>(w, x, p.stride, 4, numbers, acc);
        quad<1, ROWS>(w, x + 4, p.stride, 4, numbers, acc);
      }
      quad<0, ROWS>(w, x, p.stride, n, numbers, acc);
      quad<1, ROWS>(w, x + 4, p.stride, n - 4, numbers, acc);
      const float* scale = p.scale + ptrdiff_t(segment) * PANEL;
      _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) {
        for (int r = 0; r < B; ++r) {
          __m512 sum = acc[0][m][r];
          for (int c = 1; c < chains(ROWS); ++c) sum = _mm512_add_ps(sum, acc[c][m][r]);
          y[m][r] = _mm512_add_ps(y[m][r], _mm512_mul_ps(sum, _mm512_loadu_ps(scale + 16 * r)));
        }
      }
    }
    _Pragma("GCC unroll 5") for (int m = 0; m < ROWS; ++m) finish_reals(p, first + m, y[m]);
  }

  static void all(const RealProduct& p, int rows) {
    const int count = (rows + REAL_ROWS - 1) / REAL_ROWS;
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

template <int B>
void real_blocks(const RealProduct& p, int rows) {
  if (p.nibbles) return p.bits == 1 ? Lookups512<1, B>::all(p, rows) : Lookups512<2, B>::all(p, rows);
  switch (p.bits) {
    case 1: return Reals512<1, B>::all(p, rows);
    case 2: return Reals512<2, B>::all(p, rows);
    case 4: return Reals512<4, B>::all(p, rows);
    default: return Reals512<8, B>::all(p, rows);
  }
}

void real_product512(const RealProduct& p, int rows) {
  if (p.valid <= 16) return real_blocks<1>(p, rows);
  if (p.valid <= 32) return real_blocks<2>(p, rows);
  real_blocks<4>(p, rows);
}

}  // namespace
}  // namespace qcore
