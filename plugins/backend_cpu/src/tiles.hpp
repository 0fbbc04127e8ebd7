// Products of a panel with coded rows whose sums never leave the registers: they become outputs there. For vectors V
// whose dot product adds straight to 32-bit lanes (DIRECT), and codes of one plane. Included like fields.hpp.
//
// Fields of a byte are not cut out one by one: of two fields, one product takes the lower and another takes both, and
// the difference is the upper, so that a vector of two 4-bit fields costs one mask instead of two.
//
// V has, besides what fields.hpp asks: fvec, number(i) (i in every 32-bit lane), real(f), sub32, mul32, to_real,
// mul, add, relu, and load_reals, store_reals of the first n lanes.
#pragma once

#include "kernels.hpp"

namespace qcore {
namespace {

// Two fields of a byte: which row blocks they belong to, and how far their sums are shifted.
template <int P, int PASS>
struct Two {
  static constexpr bool NESTED = P != 8;  // the second product holds the first field too
  static constexpr int FIRST = P == 4 ? PASS : 2 * PASS, SECOND = P == 4 ? PASS + 2 : 2 * PASS + 1;
  static constexpr int LOW = P == 2 ? 4 * PASS : P == 1 ? 2 * PASS : 0;
  static constexpr int HIGH = P == 4 ? 4 : P == 2 ? LOW + 2 : P == 1 ? LOW + 1 : 0;
};

template <class V>
struct Tiles {
  static constexpr int VECTOR = 4 * V::LANES, PANEL = ROW_BLOCKS * V::LANES;
  static constexpr int GROUPED_ROWS = V::GEMM_ROWS / 2;  // float sums take the other half of the registers
  using vec = typename V::vec;
  using fvec = typename V::fvec;

  template <int P, int PASS>
  static inline void load(const uint8_t* w, int half, vec& a, vec& b) {
    if constexpr (P == 8) {
      a = V::load(w + (half * 4 + 2 * PASS) * VECTOR);
      b = V::load(w + (half * 4 + 2 * PASS + 1) * VECTOR);
    } else if constexpr (P == 4) {
      b = V::load(w + (half * 2 + PASS) * VECTOR);
      a = V::band(b, V::byte(0x0F));
    } else if constexpr (P == 2) {
      const vec v = V::load(w + half * VECTOR);
      a = V::band(v, V::byte(PASS ? 0x30 : 0x03));
      b = V::band(v, V::byte(PASS ? 0xF0 : 0x0F));
    } else {
      const vec v = half ? V::template shr16<4>(V::load(w)) : V::load(w);
      a = V::band(v, V::byte(PASS ? 0x04 : 0x01));
      b = V::band(v, V::byte(PASS ? 0x0C : 0x03));
    }
  }

  // The exact sum of one field.
  template <int P, int PASS>
  static inline vec field(const vec& first, const vec& second, bool upper) {
    using T = Two<P, PASS>;
    if (!upper) return T::LOW ? V::sra32(first, T::LOW) : first;
    const vec s = T::NESTED ? V::sub32(second, first) : second;
    return T::HIGH ? V::sra32(s, T::HIGH) : s;
  }

  // What the rows of a row block need to become outputs.
  struct Numbers {
    vec offset;
    fvec scale;
    const int32_t* sum;
  };

  static inline Numbers numbers(const Product& p, int segment, int block) {
    const ptrdiff_t i = ptrdiff_t(segment) * PANEL + block * V::LANES;
    const vec offset = p.corrections ? V::zero() : V::load(reinterpret_cast<const uint8_t*>(p.offset + i));
    return {offset, V::load_reals(p.scale + i, V::LANES), p.sum + i};
  }

  // float(step * s + offset * total + shift * sum) * (x_scale * scale): the arithmetic of qcore.tensor.arithmetic.
  // SIMPLE: step 1, shift 0, and offset * total is given as `total`.
  template <bool SIMPLE>
  static inline __attribute__((always_inline)) fvec scaled(const Product& p, const Numbers& n, vec s, const Token& t,
                                                           int32_t total) {
    if constexpr (SIMPLE) {
      s = V::add32(s, V::number(total));
    } else {
      const vec sum = V::load(reinterpret_cast<const uint8_t*>(n.sum));
      s = V::add32(V::mul32(s, V::number(p.step * t.step)), V::mul32(n.offset, V::number(total)));
      s = V::add32(s, V::mul32(sum, V::number(p.step * t.shift)));
    }
    return V::mul(V::to_real(s), V::mul(V::real(t.scale), n.scale));
  }

  static inline void finish(const Product& p, int block, fvec y, float* row) {
    const int first = block * V::LANES, left = p.valid - first, n = left < V::LANES ? left : V::LANES;
    if (n <= 0) return;
    y = V::add(y, V::load_reals(p.bias + first, V::LANES));
    V::store_reals(row + first, p.relu ? V::relu(y) : y, n);
  }

  static inline int pairs_of(const Product& p, int segment) {
    return segment + 1 < p.segments ? p.pairs : p.last_pairs;
  }

  // One quad of a register tile: ROWS rows of activations by two row blocks.
  template <int ROWS>
  static inline __attribute__((always_inline)) void step(vec a, vec b, const int8_t* const (&x)[(ROWS + 2) / 3], int at,
                                                         ptrdiff_t xs, vec (&acc)[ROWS][2]) {
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
      const vec q = V::quad(x[m / 3] + (m % 3) * xs + at);
      acc[m][0] = V::dot(acc[m][0], a, q);
      acc[m][1] = V::dot(acc[m][1], b, q);
      V::pin(acc[m][0], acc[m][1]);
    }
  }

  template <int P, int PASS, int ROWS>
  static inline __attribute__((always_inline)) void sums(const Product& p, int segment, int first, vec (&acc)[ROWS][2]) {
    const uint8_t* w = p.plane + segment * p.segment_nbytes;
    const int8_t* x[(ROWS + 2) / 3];  // every third row; the others are one or two strides on
    for (int i = 0; i < (ROWS + 2) / 3; ++i) {
      x[i] = p.codes + (first + 3 * i) * p.codes_stride + segment * p.codes_segment;
    }
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) acc[m][0] = acc[m][1] = V::zero();
    const int pairs = pairs_of(p, segment) / p.pieces;
    for (int piece = 0; piece < p.pieces; ++piece) {
      for (int i = pairs; i > 0; --i, w += PANEL * P) {
        vec a, b;
        load<P, PASS>(w, 0, a, b);
        step<ROWS>(a, b, x, 0, p.codes_stride, acc);
        load<P, PASS>(w, 1, a, b);
        step<ROWS>(a, b, x, 4, p.codes_stride, acc);
        _Pragma("GCC unroll 8") for (int j = 0; j < (ROWS + 2) / 3; ++j) x[j] += 8;
      }
      _Pragma("GCC unroll 8") for (int j = 0; j < (ROWS + 2) / 3; ++j) x[j] += p.piece_gap;
    }
  }

  template <int P, int PASS, int ROWS>
  static void tile(const Product& p, int first) {
    vec acc[ROWS][2];
    fvec y[ROWS][2];
    sums<P, PASS, ROWS>(p, 0, first, acc);
    if (p.corrections) outputs<P, PASS, ROWS, true, false>(p, 0, first, acc, y);
    else outputs<P, PASS, ROWS, false, false>(p, 0, first, acc, y);
    finish_tile<P, PASS, ROWS>(p, first, y);
  }

  template <int P, int PASS, int ROWS, bool SIMPLE, bool ADD>
  static inline __attribute__((always_inline)) void outputs(const Product& p, int segment, int first,
                                                            const vec (&acc)[ROWS][2], fvec (&y)[ROWS][2]) {
    const Token* tokens = p.tokens + first;
    const int32_t* totals = (SIMPLE ? p.corrections : p.totals) + ptrdiff_t(first) * p.segments + segment;
    _Pragma("GCC unroll 2") for (int r = 0; r < 2; ++r) {
      const Numbers n = numbers(p, segment, r ? Two<P, PASS>::SECOND : Two<P, PASS>::FIRST);
      _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
        const vec s = field<P, PASS>(acc[m][0], acc[m][1], r);
        const fvec part = scaled<SIMPLE>(p, n, s, tokens[m], totals[ptrdiff_t(m) * p.segments]);
        y[m][r] = ADD ? V::add(y[m][r], part) : part;
      }
    }
  }

  template <int P, int PASS, int ROWS>
  static inline __attribute__((always_inline)) void finish_tile(const Product& p, int first, const fvec (&y)[ROWS][2]) {
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
      finish(p, Two<P, PASS>::FIRST, y[m][0], p.y + (first + m) * p.y_stride);
      finish(p, Two<P, PASS>::SECOND, y[m][1], p.y + (first + m) * p.y_stride);
    }
  }

  // With a scale for each segment: their float sums in order.
  template <int P, int PASS, int ROWS>
  static void grouped_tile(const Product& p, int first) {
    vec acc[ROWS][2];
    fvec y[ROWS][2];
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) y[m][0] = y[m][1] = V::real(0);
    for (int segment = 0; segment < p.segments; ++segment) {
      sums<P, PASS, ROWS>(p, segment, first, acc);
      if (p.corrections) outputs<P, PASS, ROWS, true, true>(p, segment, first, acc, y);
      else outputs<P, PASS, ROWS, false, true>(p, segment, first, acc, y);
    }
    finish_tile<P, PASS, ROWS>(p, first, y);
  }

  // One row of activations: all four row blocks at once, with two sums each to hide the latency of a product.
  template <int P>
  static inline void vector_sums(const uint8_t* w, const int8_t* x, int pairs, int shift, vec (&total)[ROW_BLOCKS]) {
    vec even[2][2], odd[2][2], a, b;
    for (int i = 0; i < 2; ++i) even[i][0] = even[i][1] = odd[i][0] = odd[i][1] = V::zero();
    for (; pairs > 0; --pairs, w += PANEL * P, x += 8) {
      const vec x0 = V::quad(x), x1 = V::quad(x + 4);
      if (P < 8) {  // the processor's own prefetcher keeps up with bytes, not with what takes fewer
        for (int line = 0; line < P; ++line) V::prefetch(w + 4096 + line * 64);
      }
      load<P, 0>(w, 0, a, b);
      even[0][0] = V::dot(even[0][0], a, x0), even[0][1] = V::dot(even[0][1], b, x0);
      load<P, 1>(w, 0, a, b);
      even[1][0] = V::dot(even[1][0], a, x0), even[1][1] = V::dot(even[1][1], b, x0);
      load<P, 0>(w, 1, a, b);
      odd[0][0] = V::dot(odd[0][0], a, x1), odd[0][1] = V::dot(odd[0][1], b, x1);
      load<P, 1>(w, 1, a, b);
      odd[1][0] = V::dot(odd[1][0], a, x1), odd[1][1] = V::dot(odd[1][1], b, x1);
    }
    collect<P, 0>(V::add32(even[0][0], odd[0][0]), V::add32(even[0][1], odd[0][1]), shift, total);
    collect<P, 1>(V::add32(even[1][0], odd[1][0]), V::add32(even[1][1], odd[1][1]), shift, total);
  }

  template <int P, int PASS>
  static inline void collect(const vec& first, const vec& second, int shift, vec (&total)[ROW_BLOCKS]) {
    for (int r = 0; r < 2; ++r) {
      vec& t = total[r ? Two<P, PASS>::SECOND : Two<P, PASS>::FIRST];
      t = V::add32(t, V::sll32(field<P, PASS>(first, second, r), shift));
    }
  }

  static void vector(const Product& p) {
    fvec y[ROW_BLOCKS];
    for (int block = 0; block < ROW_BLOCKS; ++block) y[block] = V::real(0);
    for (int segment = 0; segment < p.segments; ++segment) {
      const int8_t* x = p.codes + segment * p.codes_segment;
      const uint8_t* w = p.plane + segment * p.segment_nbytes;
      const int pairs = pairs_of(p, segment);
      vec total[ROW_BLOCKS];
      for (int block = 0; block < ROW_BLOCKS; ++block) total[block] = V::zero();
      for (int i = 0; i < p.planes.count; ++i) {
        const Plane& plane = p.planes.plane[i];
        switch (plane.bits) {
          case 1: vector_sums<1>(w, x, pairs, plane.shift, total); break;
          case 2: vector_sums<2>(w, x, pairs, plane.shift, total); break;
          case 4: vector_sums<4>(w, x, pairs, plane.shift, total); break;
          default: vector_sums<8>(w, x, pairs, plane.shift, total);
        }
        w += plane_nbytes(plane.bits, 8 * int64_t(p.pairs), V::LANES);
      }
      for (int block = 0; block < ROW_BLOCKS; ++block) {
        const Numbers n = numbers(p, segment, block);
        const fvec part = p.corrections ? scaled<true>(p, n, total[block], p.tokens[0], p.corrections[segment])
                                        : scaled<false>(p, n, total[block], p.tokens[0], p.totals[segment]);
        y[block] = p.segments > 1 ? V::add(y[block], part) : part;
      }
    }
    for (int block = 0; block < ROW_BLOCKS; ++block) finish(p, block, y[block], p.y);
  }

  template <int P, int ROWS>
  static void both(const Product& p, int first) {
    tile<P, 0, ROWS>(p, first);
    tile<P, 1, ROWS>(p, first);
  }

  template <int P, int ROWS>
  static void both_grouped(const Product& p, int first) {
    grouped_tile<P, 0, ROWS>(p, first);
    grouped_tile<P, 1, ROWS>(p, first);
  }

  template <int P, int ROWS>
  static void any(const Product& p, int first, int rows) {
    if constexpr (ROWS > 0) {
      if (rows == ROWS) both<P, ROWS>(p, first);
      else any<P, ROWS - 1>(p, first, rows);
    }
  }

  template <int P, int ROWS>
  static void any_grouped(const Product& p, int first, int rows) {
    if constexpr (ROWS > 0) {
      if (rows == ROWS) both_grouped<P, ROWS>(p, first);
      else any_grouped<P, ROWS - 1>(p, first, rows);
    }
  }

  template <int P>
  static void all(const Product& p, int rows) {
    const int height = p.segments > 1 ? GROUPED_ROWS : V::GEMM_ROWS, count = (rows + height - 1) / height;
    for (int t = 0, first = 0; t < count; ++t) {
      const int n = (rows - first + count - t - 1) / (count - t);  // tiles of equal height
      if (p.segments > 1) any_grouped<P, GROUPED_ROWS>(p, first, n);
      else any<P, V::GEMM_ROWS>(p, first, n);
      first += n;
    }
  }

  static void product(const Product& p, int rows) {
    if (rows == 1 && p.pieces == 1) return vector(p);
    switch (p.planes.plane[0].bits) {
      case 1: return all<1>(p, rows);
      case 2: return all<2>(p, rows);
      case 4: return all<4>(p, rows);
      default: return all<8>(p, rows);
    }
  }
};

}  // namespace
}  // namespace qcore
