// Convolutions whose every channel has a kernel of its own: one block for all channels, sums over taps in 16-bit pairs.
//
// The block has the header of layout.hpp with `depthwise` set: rows are channels and columns taps, in the order (kernel
// height, kernel width). Its one bucket holds
//   data   int16 (pairs of taps, padded channels, 2): code less zero point, zeros where there is no tap or channel;
//          channels are filled up to a multiple of 2 * lanes, and among so many they stand in the order of `channel_at`;
//   sum    int32 (padded channels): of the same numbers over all taps;
//   scale, bias  float (padded channels).
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout.hpp"

namespace qcore {

struct Stored;   // prepare.hpp
struct Kernels;  // kernels.hpp

// Pixels of one line of the output, all channels of each.
struct DepthwiseLine {
  const int8_t* x;          // the first pixel's window: codes (height, width, channels)
  ptrdiff_t pixel_stride;   // bytes from a window to the next
  const ptrdiff_t* tap;     // (2 * pairs,): where a window's taps lie; a last one without a partner comes twice
  int pairs;
  const int16_t* weight;    // (pairs, padded, 2)
  const int32_t* sum;       // (padded,), as are scale and bias
  const float* scale;
  const float* bias;
  int64_t channels, padded;
  float x_scale;
  int32_t shift;            // x = code + shift
  int64_t pixels;
  float* y;                 // (pixels, channels)
};

// y = float(sum of x * weight) * (x_scale * scale) + bias.
using DepthwiseKernel = void (*)(const DepthwiseLine& line);

void depthwise_portable(const DepthwiseLine& line);
void depthwise_emulated512(const DepthwiseLine& line);
#if defined(QCORE_X86)
void depthwise_avx2(const DepthwiseLine& line);
void depthwise_avx512(const DepthwiseLine& line);
#endif

// Which channel of 2 * lanes stands at place `i`: interleaving two vectors of 16-bit numbers leaves them so.
inline int channel_at(int i, int lanes) { return i % lanes / 4 * 8 + i / lanes * 4 + i % 4; }

inline int64_t depthwise_pairs(const Header& h) { return (h.cols + 1) / 2; }
inline int64_t depthwise_padded(const Header& h) { return round_up(h.rows, 2 * h.lanes); }

Header plan_depthwise(const Stored& stored, const Kernels& kernels);
void fill_depthwise(const Stored& stored, const Header& header, uint8_t* out);

}  // namespace qcore
