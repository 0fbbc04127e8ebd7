#include "convolution.hpp"

#include <cstring>
#include <limits>

#include "memory.hpp"
#include "pool.hpp"

namespace qcore {
namespace {

constexpr int64_t TILE = 96;                  // pixels that one task takes
constexpr int64_t IMAGE_NBYTES = 1 << 23;     // of coded images held at once
constexpr int64_t PLANES = 16;                // channels coded at once
constexpr int64_t SLACK = 64;                 // vectors read a little past the last code
constexpr int64_t SHORT = 16;                 // bytes that are copied faster than counted
constexpr int64_t HELD = 8192;                // floats of a task of a depthwise convolution
constexpr int64_t WORTH_A_THREAD = 1 << 21;   // products below which a woken thread comes too late to help

// Floats that outputs go to: those of all pixels of an image, or those from pixel `first` on.
struct Place {
  float* y;
  int64_t first;
  Layout layout;
};

struct Convolution {
  const Machine& machine;
  const std::vector<const uint8_t*>& blocks;
  const Geometry& g;
  const Layout layout;
  const int64_t padded_height, padded_width, group_channels;
  std::vector<ptrdiff_t> taps;  // of a depthwise convolution: bytes from a window's start

  Convolution(const Machine& m, const std::vector<const uint8_t*>& b, const Geometry& geometry, Layout l)
      : machine(m), blocks(b), g(geometry), layout(l), padded_height(g.height + 2 * g.padding_height),
        padded_width(g.width + 2 * g.padding_width), group_channels(g.channels / groups()) {
    if (depthwise()) find_taps();
  }

  const Header& header() const { return header_of(blocks[0]); }
  bool depthwise() const { return header().depthwise; }
  int64_t groups() const { return depthwise() ? g.channels : int64_t(blocks.size()); }
  int64_t image_nbytes() const { return padded_height * padded_width * g.channels; }
  int64_t image_pixels() const { return padded_height * padded_width; }
  int64_t pixels() const { return g.out_height * g.out_width; }
  int64_t run() const { return g.kernel_width * group_channels; }  // bytes of a window's row

  // Whether the products can read windows in the image.
  bool in_place() const {
    return groups() == 1 && g.dilation_width == 1 && run() % 8 == 0 && g.out_width > 1 && machine.kernels->product &&
           !header().wide;
  }

  // Whether codes that are handed over can be read where they lie.
  bool reads_source(const Source& from) const {
    return from.bytes.codes && in_place() && !g.padding_height && !g.padding_width;
  }

  // Pixels of a task: whole rows of the output if windows are read in place.
  int64_t tile() const {
    if (in_place()) return g.out_width * (g.out_width < TILE ? TILE / g.out_width : 1);
    const int64_t fit = HELD / g.channels < 8 ? 8 : HELD / g.channels, most = depthwise() ? fit : TILE;
    const int64_t tiles = (pixels() + most - 1) / most;
    return (pixels() + tiles - 1) / tiles;
  }

  int8_t* interior(int8_t* image, int64_t row) const {
    return image + ((row + g.padding_height) * padded_width + g.padding_width) * g.channels;
  }

  // Lay out the codes of an image as (height, width, channels) with its padding: the byte that stands for zero.
  Token take_image(const Source& from, int64_t index, int8_t* image) const {
    const int64_t n = g.channels * g.height * g.width;
    if (!from.bytes.codes) return encode_image(from.x + index * n, from.coded, index, image);
    copy_image(from.bytes, index, image);
    return token_of(from.bytes, index);
  }

  Token token_of(const Bytes& from, int64_t index) const {
    const Coder c = fixed_coder(header().activation);
    return {from.nan[index] ? std::numeric_limits<float>::quiet_NaN() : c.scale, c.step, c.shift};
  }

  void sum_pixels(const int8_t* image, int32_t* sums) const {
    for (int64_t i = 0; i < image_pixels(); ++i) sums[i] = pixel_sum(image + i * g.channels);
  }

  void copy_image(const Bytes& from, int64_t index, int8_t* image) const {
    const Coder c = fixed_coder(header().activation);
    const int64_t n = g.width * g.channels;
    if (g.padding_height || g.padding_width) std::memset(image, -c.shift, size_t(image_nbytes()));
    for (int64_t i = 0; i < g.height; ++i) {
      std::memcpy(interior(image, i), from.codes + (index * g.height + i) * n, size_t(n));
    }
  }

  Token encode_image(const float* x, const Coded* coded, int64_t index, int8_t* image) const {
    const int64_t area = g.height * g.width;
    const Coder c = coder_of(machine, header().activation, x, g.channels * area, coded, index);
    if (g.padding_height || g.padding_width) std::memset(image, -c.shift, size_t(image_nbytes()));
    bool nan = false;
    if (layout == Layout::channels_last) {
      const int64_t n = g.width * g.channels;
      for (int64_t i = 0; i < g.height; ++i) encode(machine, c, x + i * n, n, interior(image, i), &nan);
    } else {
      encode_planes(c, x, image, &nan);
    }
    return {nan ? std::numeric_limits<float>::quiet_NaN() : c.scale, c.step, c.shift};
  }

  int32_t pixel_sum(const int8_t* pixel) const {
    if (g.channels > SHORT) return int32_t(machine.rows->sum(pixel, g.channels));
    int32_t sum = 0;
    for (int64_t i = 0; i < g.channels; ++i) sum += pixel[i];
    return sum;
  }

  void encode_planes(const Coder& c, const float* x, int8_t* image, bool* nan) const {
    const int64_t area = g.height * g.width;
    int8_t* planes = scratch<Purpose::codes>(PLANES * area + SLACK);
    for (int64_t channel = 0; channel < g.channels; channel += PLANES) {
      const int n = int(g.channels - channel < PLANES ? g.channels - channel : PLANES);
      for (int j = 0; j < n; ++j) encode(machine, c, x + (channel + j) * area, area, planes + j * area, nan);
      for (int64_t i = 0; i < g.height; ++i) {
        machine.rows->transpose_bytes(planes + i * g.width, area, n, int(g.width), interior(image, i) + channel,
                                      g.channels);
      }
    }
  }

  // Index of the padded pixel at which the window of output pixel `pixel` starts.
  int64_t corner(int64_t pixel) const {
    return pixel / g.out_width * g.stride_height * padded_width + pixel % g.out_width * g.stride_width;
  }

  // Unfold the window of output pixel `pixel` for one group of channels; `row` has room for SHORT bytes more.
  void unfold(const int8_t* image, int64_t pixel, int64_t group, int8_t* row) const {
    const int8_t* line = image + corner(pixel) * g.channels + group * group_channels;
    const bool together = g.dilation_width == 1 && groups() == 1;
    const int64_t pieces = together ? 1 : g.kernel_width, n = together ? run() : group_channels;
    for (int64_t i = 0; i < g.kernel_height; ++i, line += g.dilation_height * padded_width * g.channels) {
      for (int64_t j = 0; j < pieces; ++j, row += n) {
        const int8_t* from = line + j * g.dilation_width * g.channels;
        if (n <= SHORT) std::memcpy(row, from, SHORT);
        else std::memcpy(row, from, size_t(n));
      }
    }
  }

  // Sum of step * code + shift over a window, modulo 2**32.
  int32_t total(const int32_t* sums, int64_t pixel, const Token& token) const {
    int64_t sum = 0;
    const int32_t* line = sums + corner(pixel);
    for (int64_t i = 0; i < g.kernel_height; ++i, line += g.dilation_height * padded_width) {
      for (int64_t j = 0; j < g.kernel_width; ++j) sum += line[j * g.dilation_width];
    }
    return int32_t(token.step * sum + header().cols * token.shift);
  }

  Output output(const Place& to, int64_t pixel, int64_t group) const {
    const int64_t channel = group * (g.out_channels / groups()), at = pixel - to.first;
    if (to.layout == Layout::channels_last) return {to.y + at * g.out_channels + channel, g.out_channels, 1};
    return {to.y + channel * pixels() + at, 1, pixels()};
  }

  void run_panels(int64_t group, const Codes& codes, const Output& out) const {
    const uint8_t* block = blocks[size_t(group)];
    const int64_t panels = panels_of(header_of(block));
    for (int64_t p = 0; p < panels; ++p) run_panel(machine, block, p, codes, out);
  }

  void run_tile(const int8_t* image, const int32_t* sums, const Token& token, int64_t first, int64_t count,
                const Place& to) const {
    Token tokens[TILE];
    int32_t totals[TILE];
    for (int64_t i = 0; i < count; ++i) tokens[i] = token;
    const int64_t stride = codes_stride(header());
    int8_t* codes = scratch<Purpose::codes>(stride * TILE + SLACK);
    for (int64_t group = 0; group < groups(); ++group) {
      for (int64_t i = 0; i < count; ++i) {
        int8_t* row = codes + i * stride;
        unfold(image, first + i, group, row);
        totals[i] = sums ? total(sums, first + i, token) : window_total(row, token);
      }
      run_panels(group, Codes{codes, stride, tokens, totals, count, plain(&token, 1), 1, 0}, output(to, first, group));
    }
  }

  int32_t window_total(const int8_t* row, const Token& token) const {
    return int32_t(token.step * machine.rows->sum(row, header().cols) + header().cols * token.shift);
  }

  void run_in_place(const int8_t* image, const int32_t* sums, const Token& token, int64_t first, int64_t count,
                    const Place& to) const {
    Token tokens[TILE];
    int32_t totals[TILE];
    for (int64_t i = 0; i < TILE; ++i) tokens[i] = token;
    const int64_t line = g.dilation_height * padded_width * g.channels;
    for (int64_t start = first; start < first + count;) {
      const int64_t left = g.out_width - start % g.out_width, n = left < TILE ? left : TILE;
      for (int64_t i = 0; i < n; ++i) totals[i] = total(sums, start + i, token);
      const Codes codes{image + corner(start) * g.channels, g.stride_width * g.channels, tokens, totals, n,
                        plain(&token, 1), g.kernel_height, line};
      run_panels(0, codes, output(to, start, 0));
      start += n;
    }
  }

  void find_taps() {
    for (int64_t i = 0; i < g.kernel_height; ++i) {
      for (int64_t j = 0; j < g.kernel_width; ++j) {
        taps.push_back((i * g.dilation_height * padded_width + j * g.dilation_width) * g.channels);
      }
    }
    if (taps.size() % 2) taps.push_back(taps.back());
  }

  // y (count, channels) of the pixels from `first` on.
  void run_lines(const int8_t* image, const Token& token, int64_t first, int64_t count, float* y) const {
    const Header& h = header();
    const uint8_t* block = blocks[0];
    const Bucket& b = h.bucket[0];
    DepthwiseLine line{nullptr, g.stride_width * g.channels, taps.data(), int(taps.size() / 2),
                       at<int16_t>(block, b.data), at<int32_t>(block, b.sum), at<float>(block, b.scale),
                       at<float>(block, b.bias), g.channels, depthwise_padded(h), token.scale, token.shift, 0, y};
    for (int64_t start = first; start < first + count; start += line.pixels, line.y += line.pixels * g.channels) {
      const int64_t left = g.out_width - start % g.out_width, rest = first + count - start;
      line.pixels = left < rest ? left : rest;
      line.x = image + corner(start) * g.channels;
      machine.depthwise(line);
    }
  }

  void run_depthwise(const int8_t* image, const Token& token, int64_t first, int64_t count, const Place& to) const {
    if (to.layout == Layout::channels_last) {
      return run_lines(image, token, first, count, to.y + (first - to.first) * g.channels);
    }
    float* y = held(count);
    run_lines(image, token, first, count, y);
    machine.rows->transpose(y, g.channels, int(count), int(g.channels), to.y + first - to.first, pixels());
  }

  // `count` pixels of image `index`, from pixel `first` on.
  void run_pixels(const int8_t* image, const int32_t* sums, const Token& token, int64_t index, int64_t first,
                  int64_t count, const Target& to) const {
    const Place place = to.over ? Place{held(count), first, Layout::channels_last}
                                : Place{to.y + index * g.out_channels * pixels(), 0, layout};
    if (depthwise()) run_depthwise(image, token, first, count, place);
    else if (in_place()) run_in_place(image, sums, token, first, count, place);
    else run_tile(image, sums, token, first, count, place);
    if (!to.over) return;
    bool nan = false;
    int8_t* codes = to.codes + (index * pixels() + first) * g.out_channels;
    to.over->apply(machine, place.y, count * g.out_channels, codes, &nan);
    if (nan) __atomic_store_n(to.nan + index, uint8_t(1), __ATOMIC_RELAXED);
  }

  float* held(int64_t count) const {
    return reinterpret_cast<float*>(scratch<Purpose::outputs>(4 * count * g.out_channels));
  }
};

}  // namespace

void run_convolution(const Machine& machine, const std::vector<const uint8_t*>& blocks, const Geometry& g,
                     const Source& from, int64_t images, const Target& to, int threads, Layout layout) {
  const Convolution c(machine, blocks, g, layout);
  const bool summed = c.groups() == 1, source = c.reads_source(from);
  const int64_t fit = IMAGE_NBYTES / (c.image_nbytes() + 1) + 1, most = images < fit ? images : fit;
  const int64_t nbytes = source ? 0 : most * c.image_nbytes() + SLACK;
  Memory<int8_t> large;  // what no thread should keep
  if (nbytes > 2 * IMAGE_NBYTES) large = allocate<int8_t>(nbytes);
  int8_t* const held = large ? large.get() : scratch<Purpose::images>(nbytes);
  const auto tokens = allocate<Token>(most);
  const auto sums = allocate<int32_t>(summed ? most * c.image_pixels() : 0);
  const int64_t tile = c.tile(), tiles = tile ? (c.pixels() + tile - 1) / tile : 0;
  const int64_t work = g.out_channels * c.pixels() * c.header().cols * images;
  const int use = work < WORTH_A_THREAD ? 1 : threads;
  auto image = [&](int64_t index, int64_t i) {
    return (source ? from.bytes.codes + index * c.image_nbytes() : held + i * c.image_nbytes());
  };
  auto sums_of = [&](int64_t i) { return summed ? &sums[size_t(i * c.image_pixels())] : nullptr; };
  for (int64_t first = 0; first < images; first += most) {
    const int64_t n = images - first < most ? images - first : most;
    parallel_for(use, n, [&](int64_t i) {
      tokens[size_t(i)] = source ? c.token_of(from.bytes, first + i)
                                 : c.take_image(from, first + i, held + i * c.image_nbytes());
      if (summed) c.sum_pixels(image(first + i, i), sums_of(i));
      if (to.over) to.nan[first + i] = 0;
    });
    parallel_for(use, n * tiles, [&](int64_t t) {
      const int64_t i = t / tiles, start = t % tiles * tile, left = c.pixels() - start;
      const int64_t count = left < tile ? left : tile;
      c.run_pixels(image(first + i, i), sums_of(i), tokens[size_t(i)], first + i, start, count, to);
    });
  }
}

}  // namespace qcore
