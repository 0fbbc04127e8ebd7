// Products of a panel with coded rows whose sums never leave the registers: they become outputs there. For vectors V
// whose dot product adds straight to 32-bit lanes (DIRECT). Included like fields.hpp.
//
// The fields of a byte are not cut out one by one: products take the lowest field, the lowest two, and so on up to the
// whole byte, and differences of their sums are the fields' own. The topmost field then costs no mask.
//
// V has, besides what fields.hpp asks: TILE_ROWS, fvec, number(i) (i in every 32-bit lane), real(f), sub32, mul32,
// to_real, mul, add, relu, and load_reals, store_reals of the first n lanes.
#pragma once

#include "kernels.hpp"

namespace qcore {
namespace {

template <class V>
struct Tiles {
  static constexpr int VECTOR = 4 * V::LANES, PANEL = ROW_BLOCKS * V::LANES;
  static constexpr int GROUPED_ROWS = V::TILE_ROWS / 2;  // float sums take the other half of the registers
  static constexpr int AHEAD = 4096;                     // bytes
  using vec = typename V::vec;
  using fvec = typename V::fvec;

  // What the four row blocks' products take of quad `half` of a pair.
  template <int P>
  static inline __attribute__((always_inline)) void load(const uint8_t* w, int half, vec (&u)[4]) {
    if constexpr (P == 8) {
      for (int r = 0; r < 4; ++r) u[r] = V::load(w + (half * 4 + r) * VECTOR);
    } else if constexpr (P == 4) {
      for (int r = 0; r < 2; ++r) {
        u[r + 2] = V::load(w + (half * 2 + r) * VECTOR);
        u[r] = V::band(u[r + 2], V::byte(0x0F));
      }
    } else if constexpr (P == 2) {
      u[3] = V::load(w + half * VECTOR);
      u[0] = V::band(u[3], V::byte(0x03));
      u[1] = V::band(u[3], V::byte(0x0F));
      u[2] = V::band(u[3], V::byte(0x3F));
    } else {
      const vec v = half ? V::template shr16<4>(V::load(w)) : V::load(w);
      for (int r = 0; r < 4; ++r) u[r] = V::band(v, V::byte(uint8_t((2 << r) - 1)));
    }
  }

  // The row block whose products hold no field of block r but its own; -1 if there are none below.
  template <int P>
  static constexpr int below(int r) {
    return P == 8 ? -1 : P == 4 ? r - 2 : r - 1;
  }

  // The exact sum of block r's field.
  template <int P>
  static inline __attribute__((always_inline)) vec field(const vec (&acc)[4], int r) {
    if (below<P>(r) < 0) return acc[r];
    return V::sra32(V::sub32(acc[r], acc[below<P>(r)]), P == 4 ? 4 : P * r);
  }

  // What the rows of a row block need to become outputs.
  struct Numbers {
    vec offset;
    fvec scale;
    const int32_t* sum;
  };

  static inline __attribute__((always_inline)) Numbers numbers(const Product& p, int segment, int block) {
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

  static inline __attribute__((always_inline)) void finish(const Product& p, int block, fvec y, float* row) {
    const int first = block * V::LANES, left = p.valid - first, n = left < V::LANES ? left : V::LANES;
    if (n <= 0) return;
    y = V::add(y, V::load_reals(p.bias + first, V::LANES));
    V::store_reals(row + first, p.relu ? V::relu(y) : y, n);
  }

  static inline int pairs_of(const Product& p, int segment) {
    return segment + 1 < p.segments ? p.pairs : p.last_pairs;
  }

  // One quad: ROWS rows of activations by the four row blocks.
  template <int P, int ROWS>
  static inline __attribute__((always_inline)) void step(const uint8_t* w, int half,
                                                         const int8_t* const (&x)[(ROWS + 2) / 3], ptrdiff_t xs,
                                                         vec (&acc)[ROWS][4]) {
    vec u[4];
    load<P>(w, half, u);
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
      const vec q = V::quad(x[m / 3] + (m % 3) * xs + 4 * half);
      _Pragma("GCC unroll 4") for (int r = 0; r < 4; ++r) acc[m][r] = V::dot(acc[m][r], u[r], q);
      V::pin(acc[m][0], acc[m][3]);
    }
  }

  template <int P, int ROWS>
  static inline __attribute__((always_inline)) void sums(const Product& p, int segment, int first, vec (&acc)[ROWS][4]) {
    const uint8_t* w = p.plane + segment * p.segment_nbytes;
    const int8_t* x[(ROWS + 2) / 3];  // every third row; the others are one or two strides on
    for (int i = 0; i < (ROWS + 2) / 3; ++i) {
      x[i] = p.codes + (first + 3 * i) * p.codes_stride + segment * p.codes_segment;
    }
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
      _Pragma("GCC unroll 4") for (int r = 0; r < 4; ++r) acc[m][r] = V::zero();
    }
    const int pairs = pairs_of(p, segment) / p.pieces;
    for (int piece = 0; piece < p.pieces; ++piece) {
      for (int i = pairs; i > 0; --i, w += PANEL * P) {
        for (int line = 0; line < PANEL * P; line += 64) V::prefetch(w + AHEAD + line);
        step<P, ROWS>(w, 0, x, p.codes_stride, acc);
        step<P, ROWS>(w, 1, x, p.codes_stride, acc);
        _Pragma("GCC unroll 8") for (int j = 0; j < (ROWS + 2) / 3; ++j) x[j] += 8;
      }
      _Pragma("GCC unroll 8") for (int j = 0; j < (ROWS + 2) / 3; ++j) x[j] += p.piece_gap;
    }
  }

  template <int P, int ROWS, bool SIMPLE, bool ADD>
  static inline __attribute__((always_inline)) void outputs(const Product& p, int segment, int first,
                                                            const vec (&acc)[ROWS][4], fvec (&y)[ROWS][4]) {
    const Token* tokens = p.tokens + first;
    const int32_t* totals = (SIMPLE ? p.corrections : p.totals) + ptrdiff_t(first) * p.segments + segment;
    _Pragma("GCC unroll 4") for (int r = 0; r < 4; ++r) {
      const Numbers n = numbers(p, segment, r);
      _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
        const fvec part = scaled<SIMPLE>(p, n, field<P>(acc[m], r), tokens[m], totals[ptrdiff_t(m) * p.segments]);
        y[m][r] = ADD ? V::add(y[m][r], part) : part;
      }
    }
  }

  template <int P, int ROWS>
  static void tile(const Product& p, int first) {
    vec acc[ROWS][4];
    fvec y[ROWS][4];
    sums<P, ROWS>(p, 0, first, acc);
    if (p.raw) return store_raw<P, ROWS>(p, first, acc);
    if (p.corrections) outputs<P, ROWS, true, false>(p, 0, first, acc, y);
    else outputs<P, ROWS, false, false>(p, 0, first, acc, y);
    finish_tile<ROWS>(p, first, y);
  }

  template <int P, int ROWS>
  static inline __attribute__((always_inline)) void store_raw(const Product& p, int first, const vec (&acc)[ROWS][4]) {
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {  // a place that is not constant would keep sums in memory
      uint8_t* to = reinterpret_cast<uint8_t*>(p.raw + ptrdiff_t(first + m) * PANEL);
      _Pragma("GCC unroll 4") for (int r = 0; r < 4; ++r) V::store(to + r * VECTOR, field<P>(acc[m], r));
    }
  }

  // With a scale for each segment: their float sums in order.
  template <int P, int ROWS>
  static void grouped_tile(const Product& p, int first) {
    vec acc[ROWS][4];
    fvec y[ROWS][4];
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
      _Pragma("GCC unroll 4") for (int r = 0; r < 4; ++r) y[m][r] = V::real(0);
    }
    for (int segment = 0; segment < p.segments; ++segment) {
      sums<P, ROWS>(p, segment, first, acc);
      if (p.corrections) outputs<P, ROWS, true, true>(p, segment, first, acc, y);
      else outputs<P, ROWS, false, true>(p, segment, first, acc, y);
    }
    finish_tile<ROWS>(p, first, y);
  }

  template <int ROWS>
  static inline __attribute__((always_inline)) void finish_tile(const Product& p, int first, const fvec (&y)[ROWS][4]) {
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
      _Pragma("GCC unroll 4") for (int r = 0; r < 4; ++r) finish(p, r, y[m][r], p.y + (first + m) * p.y_stride);
    }
  }

  // One row of activations: two sums a row block hide the latency of a product.
  template <int P>
  static inline void vector_sums(const uint8_t* w, const int8_t* x, int pairs, int shift, vec (&total)[4]) {
    vec even[4], odd[4], u[4];
    for (int r = 0; r < 4; ++r) even[r] = odd[r] = V::zero();
    for (; pairs > 0; --pairs, w += PANEL * P, x += 8) {
      const vec x0 = V::quad(x), x1 = V::quad(x + 4);
      if (P < 8) {  // the processor's own prefetcher keeps up with bytes, not with what takes fewer
        for (int line = 0; line < PANEL * P; line += 64) V::prefetch(w + AHEAD + line);
      }
      load<P>(w, 0, u);
      for (int r = 0; r < 4; ++r) even[r] = V::dot(even[r], u[r], x0);
      load<P>(w, 1, u);
      for (int r = 0; r < 4; ++r) odd[r] = V::dot(odd[r], u[r], x1);
    }
    for (int r = 0; r < 4; ++r) even[r] = V::add32(even[r], odd[r]);
    for (int r = 0; r < 4; ++r) total[r] = V::add32(total[r], V::sll32(field<P>(even, r), shift));
  }

  static void vector(const Product& p) {
    fvec y[4];
    for (int r = 0; r < 4; ++r) y[r] = V::real(0);
    for (int segment = 0; segment < p.segments; ++segment) {
      const int8_t* x = p.codes + segment * p.codes_segment;
      const uint8_t* w = p.plane + segment * p.segment_nbytes;
      const int pairs = pairs_of(p, segment);
      vec total[4];
      for (int r = 0; r < 4; ++r) total[r] = V::zero();
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
      for (int r = 0; r < 4; ++r) {
        const Numbers n = numbers(p, segment, r);
        const fvec part = p.corrections ? scaled<true>(p, n, total[r], p.tokens[0], p.corrections[segment])
                                        : scaled<false>(p, n, total[r], p.tokens[0], p.totals[segment]);
        y[r] = p.segments > 1 ? V::add(y[r], part) : part;
      }
    }
    for (int r = 0; r < 4; ++r) finish(p, r, y[r], p.y);
  }

  template <int P, int ROWS>
  static void any(const Product& p, int first, int rows) {
    if constexpr (ROWS > 0) {
      if (rows == ROWS) tile<P, ROWS>(p, first);
      else any<P, ROWS - 1>(p, first, rows);
    }
  }

  template <int P, int ROWS>
  static void any_grouped(const Product& p, int first, int rows) {
    if constexpr (ROWS > 0) {
      if (rows == ROWS) grouped_tile<P, ROWS>(p, first);
      else any_grouped<P, ROWS - 1>(p, first, rows);
    }
  }

  template <int P>
  static void all(const Product& p, int rows) {
    const int height = p.segments > 1 ? GROUPED_ROWS : V::TILE_ROWS, count = (rows + height - 1) / height;
    for (int t = 0, first = 0; t < count; ++t) {
      const int n = (rows - first + count - t - 1) / (count - t);  // tiles of equal height
      if (p.segments > 1) any_grouped<P, GROUPED_ROWS>(p, first, n);
      else any<P, V::TILE_ROWS>(p, first, n);
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
