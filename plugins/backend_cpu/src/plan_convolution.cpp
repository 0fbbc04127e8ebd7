// A float convolution: products of unfolded tiles of pixels.
#include "memory.hpp"
#include "plan_layers.hpp"
#include "pool.hpp"

namespace qcore {
namespace {

constexpr int64_t TILE = 48;                 // pixels unfolded at once
constexpr int64_t WORTH_A_THREAD = 1 << 20;  // multiplications below which a woken thread comes too late to help

// The window of output pixel (i, j) over `channels` channels of x, (channels, height, width), as one row.
void unfold(const Geometry& g, const float* x, int64_t channels, int64_t i, int64_t j, float* row) {
  const int64_t top = i * g.stride_height - g.padding_height, left = j * g.stride_width - g.padding_width;
  for (int64_t c = 0; c < channels; ++c, x += g.height * g.width) {
    for (int64_t a = 0; a < g.kernel_height; ++a) {
      const int64_t at = top + a * g.dilation_height;
      for (int64_t b = 0; b < g.kernel_width; ++b) {
        const int64_t across = left + b * g.dilation_width;
        const bool inside = at >= 0 && at < g.height && across >= 0 && across < g.width;
        *row++ = inside ? x[at * g.width + across] : 0.0f;
      }
    }
  }
}

}  // namespace

void ConvolutionStep::run(const Frame& f) const {
  const Geometry g = between(walk, in_shape(f), out_shape(f));
  const int64_t pixels = g.out_height * g.out_width, tiles = (pixels + TILE - 1) / TILE, count = int64_t(groups.size());
  const int64_t channels = g.channels / count, outputs = g.out_channels / count, features = groups[0].features;
  const int64_t image = g.channels * g.height * g.width;
  const int use = f.rows * pixels * g.out_channels * features < WORTH_A_THREAD ? 1 : f.threads;
  parallel_for(use, f.rows * tiles * count, [&](int64_t task) {
    const int64_t group = task % count, tile = task / count % tiles, row = task / count / tiles;
    const int64_t first = tile * TILE, left = pixels - first, n = left < TILE ? left : TILE;
    float* unfolded = reinterpret_cast<float*>(scratch<Purpose::floats>(4 * TILE * (features + outputs)));
    float* part = unfolded + TILE * features;
    const float* x = in<float>(f) + row * image + group * channels * g.height * g.width;
    for (int64_t p = 0; p < n; ++p) {
      unfold(g, x, channels, (first + p) / g.out_width, (first + p) % g.out_width, unfolded + p * features);
    }
    const FloatWeight& weight = groups[size_t(group)];
    for (int64_t panel = 0; panel < weight.count(); ++panel) floats.linear(weight, panel, unfolded, n, relu, part);
    float* y = out<float>(f) + (row * g.out_channels + group * outputs) * pixels + first;
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t p = 0; p < n; ++p) y[o * pixels + p] = part[p * outputs + o];
    }
  });
}

}  // namespace qcore
