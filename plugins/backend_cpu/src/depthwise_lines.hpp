// Lines of a depthwise convolution on vectors: two taps of a channel are one pair of 16-bit numbers, whose products a
// multiply-add sums to 32 bits. Included by one file an instruction set.
#pragma once

#include "depthwise.hpp"

namespace qcore {
namespace {

// PAIRS of taps held in registers, or any number (0) of them in memory; V: 2 * V::LANES channels at a time.
template <class V, int PAIRS>
void depthwise_line(const DepthwiseLine& d) {
  using vec = typename V::vec;
  constexpr int LANES = V::LANES, GROUP = 2 * LANES;
  const int pairs = PAIRS ? PAIRS : d.pairs;
  for (int64_t first = 0; first < d.channels; first += GROUP) {
    const int64_t left = d.channels - first;
    const int16_t* weight = d.weight + first * 2;
    vec start[2];
    typename V::fvec factor[2], bias[2];
    for (int j = 0; j < 2; ++j) {
      start[j] = V::mul32(V::number(d.shift), V::load32(d.sum + first + j * LANES));
      factor[j] = V::mul(V::real(d.x_scale), V::load_reals(d.scale + first + j * LANES));
      bias[j] = V::load_reals(d.bias + first + j * LANES);
    }
    const int8_t* x = d.x + first;
    float* y = d.y + first;
    for (int64_t p = 0; p < d.pixels; ++p, x += d.pixel_stride, y += d.channels) {
      vec low = V::zero(), high = V::zero();
      for (int k = 0; k < pairs; ++k) {
        const vec a = V::widen(x + d.tap[2 * k]), b = V::widen(x + d.tap[2 * k + 1]);
        const int16_t* w = weight + k * d.padded * 2;
        low = V::dot16(low, V::interleave_low(a, b), V::load16(w));
        high = V::dot16(high, V::interleave_high(a, b), V::load16(w + 2 * LANES));
      }
      vec sums[2];
      V::in_order(low, high, sums);
      for (int j = 0; j < 2; ++j) {
        const auto product = V::mul(V::to_real(V::add32(sums[j], start[j])), factor[j]);
        V::store_some(y + j * LANES, V::add(product, bias[j]), left - j * LANES);
      }
    }
  }
}

template <class V>
void depthwise_lines(const DepthwiseLine& d) {
  if (d.pairs == 5) depthwise_line<V, 5>(d);  // 3 x 3
  else depthwise_line<V, 0>(d);
}

}  // namespace
}  // namespace qcore
