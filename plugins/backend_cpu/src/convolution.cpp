#include "convolution.hpp"

#include <cstring>
#include <limits>

#include "memory.hpp"
#include "pool.hpp"

namespace qcore {
namespace {

constexpr int64_t TILE = 96;                  // pixels unfolded at once
constexpr int64_t IMAGE_NBYTES = 1 << 23;     // of coded images held at once
constexpr int64_t PLANES = 16;                // channels coded at once
constexpr int64_t SLACK = 64;                 // vectors read a little past the last code
constexpr int64_t WORTH_A_THREAD = 1 << 21;  // products below which a woken thread comes too late to help

struct Convolution {
  const Machine& machine;
  const std::vector<const uint8_t*>& blocks;
  const Geometry& g;
  int64_t padded_height, padded_width;

  Convolution(const Machine& m, const std::vector<const uint8_t*>& b, const Geometry& geometry)
      : machine(m), blocks(b), g(geometry), padded_height(g.height + 2 * g.padding_height),
        padded_width(g.width + 2 * g.padding_width) {}

  int64_t image_nbytes() const { return padded_height * padded_width * g.channels; }
  int64_t pixels() const { return g.out_height * g.out_width; }
  int64_t groups() const { return int64_t(blocks.size()); }

  // Code an image to (height, width, channels) with its padding: the byte that stands for zero.
  Token encode_image(const float* x, const Coded* coded, int64_t index, int8_t* image, int8_t* planes) const {
    const int64_t area = g.height * g.width;
    const Coder c = coder_of(machine, header_of(blocks[0]).activation, x, g.channels * area, coded, index);
    if (g.padding_height || g.padding_width) std::memset(image, -c.shift, size_t(image_nbytes()));
    bool nan = false;
    for (int64_t channel = 0; channel < g.channels; channel += PLANES) {
      const int n = int(g.channels - channel < PLANES ? g.channels - channel : PLANES);
      for (int j = 0; j < n; ++j) encode(machine, c, x + (channel + j) * area, area, planes + j * area, &nan);
      for (int64_t i = 0; i < g.height; ++i) {
        int8_t* to = image + ((i + g.padding_height) * padded_width + g.padding_width) * g.channels + channel;
        machine.rows->transpose_bytes(planes + i * g.width, area, n, int(g.width), to, g.channels);
      }
    }
    return {nan ? std::numeric_limits<float>::quiet_NaN() : c.scale, c.step, c.shift};
  }

  // Unfold the window of output pixel `pixel` for one group of channels.
  void unfold(const int8_t* image, int64_t pixel, int64_t group, int8_t* row) const {
    const int64_t channels = g.channels / groups();
    const int64_t top = pixel / g.out_width * g.stride_height, left = pixel % g.out_width * g.stride_width;
    const bool together = g.dilation_width == 1 && groups() == 1;
    for (int64_t i = 0; i < g.kernel_height; ++i) {
      const int8_t* line = image + ((top + i * g.dilation_height) * padded_width + left) * g.channels + group * channels;
      if (together) {
        std::memcpy(row, line, size_t(g.kernel_width * channels));
        row += g.kernel_width * channels;
        continue;
      }
      for (int64_t j = 0; j < g.kernel_width; ++j, row += channels) {
        std::memcpy(row, line + j * g.dilation_width * g.channels, size_t(channels));
      }
    }
  }

  void run_tile(const int8_t* image, const Token& token, int64_t first, int64_t count, float* y) const {
    Token tokens[TILE];
    int32_t totals[TILE];
    for (int64_t i = 0; i < count; ++i) tokens[i] = token;
    const Header& h = header_of(blocks[0]);
    const int64_t stride = codes_stride(h);
    int8_t* codes = scratch<Purpose::codes>(stride * TILE + SLACK);
    const int64_t group_channels = g.out_channels / groups();
    for (int64_t group = 0; group < groups(); ++group) {
      for (int64_t i = 0; i < count; ++i) {
        int8_t* row = codes + i * stride;
        unfold(image, first + i, group, row);
        std::memset(row + h.cols, 0, size_t(stride - h.cols));
        totals[i] = int32_t(token.step * machine.rows->sum(row, h.cols) + h.cols * token.shift);
      }
      const Output out{y + group * group_channels * pixels() + first, 1, pixels()};
      const int64_t panels = panels_of(header_of(blocks[size_t(group)]));
      for (int64_t p = 0; p < panels; ++p) {
        run_panel(machine, blocks[size_t(group)], p, Codes{codes, stride, tokens, totals, count, plain(&token, 1)}, out);
      }
    }
  }
};

}  // namespace

void run_convolution(const Machine& machine, const std::vector<const uint8_t*>& blocks, const Geometry& g,
                     const float* x, const Coded* coded, int64_t images, float* y, int threads) {
  const Convolution c(machine, blocks, g);
  const int64_t fit = IMAGE_NBYTES / (c.image_nbytes() + 1) + 1, most = images < fit ? images : fit;
  const auto held = allocate<int8_t>(most * c.image_nbytes() + SLACK);
  const auto tokens = allocate<Token>(most);
  const int64_t tiles = (c.pixels() + TILE - 1) / TILE, tile = tiles ? (c.pixels() + tiles - 1) / tiles : 0;
  const int64_t in = g.channels * g.height * g.width, out = g.out_channels * c.pixels();
  const int64_t work = out * header_of(blocks[0]).cols * images;
  const int use = work < WORTH_A_THREAD ? 1 : threads;
  for (int64_t first = 0; first < images; first += most) {
    const int64_t n = images - first < most ? images - first : most;
    parallel_for(use, n, [&](int64_t i) {
      int8_t* planes = scratch<Purpose::codes>(PLANES * g.height * g.width + SLACK);
      tokens[size_t(i)] = c.encode_image(x + (first + i) * in, coded, first + i, &held[size_t(i * c.image_nbytes())],
                                         planes);
    });
    parallel_for(use, n * tiles, [&](int64_t t) {
      const int64_t i = t / tiles, start = t % tiles * tile, left = c.pixels() - start;
      c.run_tile(&held[size_t(i * c.image_nbytes())], tokens[size_t(i)], start, left < tile ? left : tile,
                 y + (first + i) * out);
    });
  }
}

}  // namespace qcore
