// Lines of a depthwise convolution in portable C++.
#pragma once

#include "depthwise.hpp"

namespace qcore {
namespace {

template <int LANES>
void depthwise_line(const DepthwiseLine& d) {
  constexpr int GROUP = 2 * LANES;
  for (int64_t first = 0; first < d.channels; first += GROUP) {
    const int64_t left = d.channels - first;
    const int8_t* x = d.x + first;
    float* y = d.y + first;
    for (int64_t p = 0; p < d.pixels; ++p, x += d.pixel_stride, y += d.channels) {
      int32_t sums[GROUP] = {};
      for (int i = 0; i < GROUP; ++i) {
        const int c = channel_at(i, LANES);
        if (c >= left) continue;
        for (int k = 0; k < d.pairs; ++k) {
          const int16_t* w = d.weight + (k * d.padded + first + i) * 2;
          sums[c] += w[0] * x[d.tap[2 * k] + c] + w[1] * x[d.tap[2 * k + 1] + c];
        }
      }
      for (int c = 0; c < GROUP && c < left; ++c) {
        // Modulo 2**32: the result is known to fit, whatever the parts do.
        const uint32_t acc = uint32_t(sums[c]) + uint32_t(d.shift) * uint32_t(d.sum[first + c]);
        const float factor = d.x_scale * d.scale[first + c], product = float(int32_t(acc)) * factor;
        y[c] = product + d.bias[first + c];
      }
    }
  }
}

}  // namespace
}  // namespace qcore
