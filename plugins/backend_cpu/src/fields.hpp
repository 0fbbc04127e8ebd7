// Matrix-vector and matrix-matrix products of a panel, for any vector type V. Included by one file an instruction set;
// everything is in an unnamed namespace, so that the linker never mixes code of two instruction sets.
//
// V has: vec (4 * LANES bytes), LANES, DIRECT, zero, load, store, prefetch, byte(m), band, bor, shr16<n>, quad(p) (four
// bytes in every lane), pin(a, b) (keeps the compiler from moving products of one row among those of another, which costs
// registers), dot(acc, u, x), add32, and sra32, srl32, sll32(v, n).
// DIRECT: dot adds four products of unsigned u and signed x to each 32-bit lane, and tiles.hpp has the products. Else: it
// adds two products to each 16-bit half of a lane, without overflow for 32768 / (256 * largest u) steps; V has GEMM_ROWS,
// and widen(acc, n) adds the halves up, << n.
#pragma once

#include "kernels.hpp"
#include "tiles.hpp"

namespace qcore {
namespace {

template <class V>
struct Steps {
  static constexpr int VECTOR = 4 * V::LANES;
  static constexpr int PANEL = ROW_BLOCKS * V::LANES;
  using vec = typename V::vec;

  // The four vectors of quad `half` (0 or 1) of a pair, each scaled by 1 << scale_of(r), from a plane of P bits.
  template <int P>
  static inline void fields(const uint8_t* w, int half, vec (&u)[4]) {
    if constexpr (P == 8) {
      for (int r = 0; r < 4; ++r) u[r] = V::load(w + (half * 4 + r) * VECTOR);
    } else if constexpr (P == 4) {
      const vec a = V::load(w + (half * 2) * VECTOR), b = V::load(w + (half * 2 + 1) * VECTOR);
      u[0] = V::band(a, V::byte(0x0F));
      u[1] = V::band(b, V::byte(0x0F));
      u[2] = V::DIRECT ? V::band(a, V::byte(0xF0)) : V::band(V::template shr16<4>(a), V::byte(0x0F));
      u[3] = V::DIRECT ? V::band(b, V::byte(0xF0)) : V::band(V::template shr16<4>(b), V::byte(0x0F));
    } else if constexpr (P == 2) {
      const vec a = V::load(w + half * VECTOR), b = V::DIRECT ? a : V::template shr16<4>(a);
      u[0] = V::band(a, V::byte(0x03));
      u[1] = V::band(a, V::byte(0x0C));
      u[2] = V::band(b, V::byte(V::DIRECT ? 0x30 : 0x03));
      u[3] = V::band(b, V::byte(V::DIRECT ? 0xC0 : 0x0C));
    } else {
      const vec a = half ? V::template shr16<4>(V::load(w)) : V::load(w);
      for (int r = 0; r < 4; ++r) u[r] = V::band(a, V::byte(uint8_t(1 << r)));
    }
  }

  template <int P>
  static constexpr int scale_of(int r) {
    if (P == 4) return V::DIRECT && r >= 2 ? 4 : 0;
    if (P == 2) return V::DIRECT ? 2 * r : 2 * (r & 1);
    return P == 1 ? r : 0;
  }

  // Pairs of quads that 16-bit sums take: 2 * 256 * largest scaled code a pair stays within 32767.
  template <int P>
  static constexpr int pairs_before_widening() {
    return P == 4 ? 4 : P == 2 ? 5 : 7;
  }

  template <int P>
  static inline void gemv_halves(const uint8_t* w, const int8_t* x, int pairs, vec (&total)[4]) {
    constexpr int STEP = PANEL * P, FEW = pairs_before_widening<P>();
    vec acc[4], u[4];
    for (int r = 0; r < 4; ++r) total[r] = V::zero();
    while (pairs > 0) {
      const int n = pairs < FEW ? pairs : FEW;
      for (int r = 0; r < 4; ++r) acc[r] = V::zero();
      for (int i = 0; i < n; ++i, w += STEP, x += 8) {
        const vec x0 = V::quad(x), x1 = V::quad(x + 4);
        V::prefetch(w + 1024);
        fields<P>(w, 0, u);
        for (int r = 0; r < 4; ++r) acc[r] = V::dot(acc[r], u[r], x0);
        fields<P>(w, 1, u);
        for (int r = 0; r < 4; ++r) acc[r] = V::dot(acc[r], u[r], x1);
      }
      for (int r = 0; r < 4; ++r) total[r] = V::add32(total[r], V::widen(acc[r], 0));
      pairs -= n;
    }
  }

  template <int P>
  static void gemv(const uint8_t* w, const int8_t* x, int pairs, int shift, int32_t* sums) {
    uint8_t* s = reinterpret_cast<uint8_t*>(sums);
    vec total[4];
    if constexpr (V::DIRECT) {
      for (int r = 0; r < 4; ++r) total[r] = V::load(s + r * VECTOR);
      Tiles<V>::template vector_sums<P>(w, x, pairs, shift, total);
    } else {
      gemv_halves<P>(w, x, pairs, total);
      for (int r = 0; r < 4; ++r) {
        const vec exact = V::sll32(V::sra32(total[r], scale_of<P>(r)), shift);
        total[r] = V::add32(V::load(s + r * VECTOR), exact);
      }
    }
    for (int r = 0; r < 4; ++r) V::store(s + r * VECTOR, total[r]);
  }

  // Quad `half` of a plane of P bits, unscaled and moved to bit `shift` of each byte.
  template <int P>
  static inline void moved(const uint8_t* w, int half, int shift, vec (&u)[4]) {
    fields<P>(w, half, u);
    for (int r = 0; r < 4; ++r) {
      const int by = shift - scale_of<P>(r);  // the bits stay within their byte
      if (by > 0) u[r] = V::sll32(u[r], by);
      if (by < 0) u[r] = V::srl32(u[r], -by);
    }
  }

  // Planes of P, Q and R bits (0: none), each above the one before.
  template <int P, int Q, int R>
  static void unpack_planes(const uint8_t* const* plane, int pairs, uint8_t* out) {
    vec u[4], more[4];
    for (int i = 0; i < 2 * pairs; ++i) {
      const int pair = i / 2 * PANEL;
      moved<P>(plane[0] + pair * P, i & 1, 0, u);
      if constexpr (Q > 0) {
        moved<Q>(plane[1] + pair * Q, i & 1, P, more);
        for (int r = 0; r < 4; ++r) u[r] = V::bor(u[r], more[r]);
      }
      if constexpr (R > 0) {
        moved<R>(plane[2] + pair * R, i & 1, P + Q, more);
        for (int r = 0; r < 4; ++r) u[r] = V::bor(u[r], more[r]);
      }
      for (int r = 0; r < 4; ++r, out += VECTOR) V::store(out, u[r]);
    }
  }

  static void unpack(const Planes& planes, const uint8_t* const* plane, int pairs, uint8_t* out) {
    const int first = planes.plane[0].bits, second = planes.count > 1 ? planes.plane[1].bits : 0;
    if (planes.count == 3) return unpack_planes<4, 2, 1>(plane, pairs, out);
    if (second == 4) return unpack_planes<4, 4, 0>(plane, pairs, out);
    if (second == 2) return unpack_planes<4, 2, 0>(plane, pairs, out);
    if (second == 1 && first == 4) return unpack_planes<4, 1, 0>(plane, pairs, out);
    if (second == 1) return unpack_planes<2, 1, 0>(plane, pairs, out);
    switch (first) {
      case 1: return unpack_planes<1, 0, 0>(plane, pairs, out);
      case 2: return unpack_planes<2, 0, 0>(plane, pairs, out);
      case 4: return unpack_planes<4, 0, 0>(plane, pairs, out);
      default: return unpack_planes<8, 0, 0>(plane, pairs, out);
    }
  }

  // One quad of a register tile.
  template <int ROWS>
  static inline __attribute__((always_inline)) void step(const uint8_t* w, const int8_t* x, ptrdiff_t xs,
                                                         vec (&acc)[ROWS][2]) {
    const vec w0 = V::load(w), w1 = V::load(w + VECTOR);
    _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
      const vec q = V::quad(x + m * xs);
      acc[m][0] = V::dot(acc[m][0], w0, q);
      acc[m][1] = V::dot(acc[m][1], w1, q);
      V::pin(acc[m][0], acc[m][1]);
    }
  }

  // A register tile: ROWS rows of activations by two row blocks; `quads` and `few` are even.
  template <int ROWS>
  static void tile(const uint8_t* w, int few, int shift, int quads, const int8_t* x, ptrdiff_t xs, uint8_t* sums,
                   ptrdiff_t stride) {
    vec acc[ROWS][2];
    while (quads > 0) {
      const int n = quads < few ? quads : few;
      _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) acc[m][0] = acc[m][1] = V::zero();
      for (int i = 0; i < n; i += 2, w += 8 * VECTOR, x += 8) {
        step<ROWS>(w, x, xs, acc);
        step<ROWS>(w + 4 * VECTOR, x + 4, xs, acc);
      }
      _Pragma("GCC unroll 16") for (int m = 0; m < ROWS; ++m) {
        for (int r = 0; r < 2; ++r) {
          uint8_t* s = sums + m * stride + r * VECTOR;
          V::store(s, V::add32(V::load(s), V::widen(acc[m][r], shift)));
        }
      }
      quads -= n;
    }
  }

  // Quads before 16-bit sums must be widened, for codes below 2**bits.
  static int quads_before_widening(int bits) {
    const int limit = 32767 / (256 * ((1 << bits) - 1));
    return limit < 64 ? limit : 64;
  }

  template <int ROWS>
  static void tiles(int rows, const uint8_t* w, int few, int shift, int quads, const int8_t* x, ptrdiff_t xs,
                    uint8_t* sums, ptrdiff_t stride) {
    if constexpr (ROWS > 0) {
      if (rows == ROWS) tile<ROWS>(w, few, shift, quads, x, xs, sums, stride);
      else tiles<ROWS - 1>(rows, w, few, shift, quads, x, xs, sums, stride);
    }
  }

  static void gemm(const uint8_t* panel, int bits, int shift, int pairs, const int8_t* x, ptrdiff_t xs, int rows,
                   int32_t* sums, ptrdiff_t stride) {
    const int few = quads_before_widening(bits), count = (rows + V::GEMM_ROWS - 1) / V::GEMM_ROWS;
    uint8_t* s = reinterpret_cast<uint8_t*>(sums);
    for (int half = 0; half < 2; ++half) {
      for (int t = 0, m = 0; t < count; ++t) {
        const int n = (rows - m + count - t - 1) / (count - t);  // tiles of equal height
        tiles<V::GEMM_ROWS>(n, panel + half * 2 * VECTOR, few, shift, 2 * pairs, x + m * xs, xs,
                            s + m * stride * 4 + half * 2 * VECTOR, stride * 4);
        m += n;
      }
    }
  }

  static void gemv_any(int bits, const uint8_t* w, const int8_t* x, int pairs, int shift, int32_t* sums) {
    switch (bits) {
      case 1: return gemv<1>(w, x, pairs, shift, sums);
      case 2: return gemv<2>(w, x, pairs, shift, sums);
      case 4: return gemv<4>(w, x, pairs, shift, sums);
      default:
        if constexpr (V::DIRECT) return gemv<8>(w, x, pairs, shift, sums);
    }
  }

  static constexpr Kernels table(const char* name, int gemv_limit,
                                 void (*real_product)(const RealProduct&, int) = nullptr) {
    if constexpr (V::DIRECT) {
      return {name, V::LANES, V::TILE_ROWS, false, gemv_limit, gemv_any, unpack, nullptr, Tiles<V>::product,
              real_product};
    } else {
      return {name, V::LANES, V::GEMM_ROWS, true, gemv_limit, gemv_any, unpack, gemm, nullptr, real_product};
    }
  }
};

}  // namespace
}  // namespace qcore
