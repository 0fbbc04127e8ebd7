// A packed convolution: the coded image, then products of windows of pixels with the prepared weight. Where a row of a
// window lies in one piece, the products read it in the image; else a few windows are unfolded at a time. The whole
// unfolded input never exists.
#pragma once

#include <cstdint>
#include <vector>

#include "handover.hpp"

namespace qcore {

struct Geometry {
  int64_t channels, height, width;          // of the input
  int64_t kernel_height, kernel_width;
  int64_t stride_height, stride_width;
  int64_t padding_height, padding_width;
  int64_t dilation_height, dilation_width;
  int64_t out_channels, out_height, out_width;
};

// Order of images of floats in memory, of the input and the output alike. Those of codes have their channels last.
enum class Layout { channels_first, channels_last };

// Where the outputs go: floats, or codes that are handed over, with whether there is NaN in each image.
struct Target {
  float* y = nullptr;
  const HandOver* over = nullptr;
  int8_t* codes = nullptr;
  uint8_t* nan = nullptr;
};

// (images, out_channels, out_height, out_width) from (images, channels, height, width); one block a group, columns in
// the order (kernel height, kernel width, channel).
void run_convolution(const Machine& machine, const std::vector<const uint8_t*>& blocks, const Geometry& g,
                     const Source& from, int64_t images, const Target& to, int threads,
                     Layout layout = Layout::channels_first);

}  // namespace qcore
