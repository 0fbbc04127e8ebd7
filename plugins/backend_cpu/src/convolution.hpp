// A packed convolution: the coded image, then products of windows of pixels with the prepared weight. Where a row of a
// window lies in one piece, the products read it in the image; else a few windows are unfolded at a time. The whole
// unfolded input never exists.
#pragma once

#include <cstdint>
#include <vector>

#include "linear.hpp"

namespace qcore {

struct Geometry {
  int64_t channels, height, width;          // of the input
  int64_t kernel_height, kernel_width;
  int64_t stride_height, stride_width;
  int64_t padding_height, padding_width;
  int64_t dilation_height, dilation_width;
  int64_t out_channels, out_height, out_width;
};

// Order of images in memory, of the input and the output alike.
enum class Layout { channels_first, channels_last };

// y (images, out_channels, out_height, out_width) from x (images, channels, height, width); one block a group, columns
// in the order (kernel height, kernel width, channel).
void run_convolution(const Machine& machine, const std::vector<const uint8_t*>& blocks, const Geometry& g,
                     const float* x, const Coded* coded, int64_t images, float* y, int threads,
                     Layout layout = Layout::channels_first);

}  // namespace qcore
