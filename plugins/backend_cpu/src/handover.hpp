// Codes that a packed layer of a plan hands over: its outputs, finished and encoded as the layers that read them would.
#pragma once

#include <cstdint>

#include "floats.hpp"
#include "linear.hpp"

namespace qcore {

// What is done to outputs: a batch norm as a multiplier and an offset a channel (null: none), a ReLU, and the coder.
struct HandOver {
  const FloatKernels* floats;
  const float* multiplier;
  const float* offset;
  bool relu;
  Coder coder;

  // A ReLU without a batch norm before it costs nothing: it is a limit of the codes.
  static HandOver of(const FloatKernels& floats, const float* multiplier, const float* offset, bool relu,
                     const Activation& scheme) {
    HandOver h{&floats, multiplier, offset, relu && multiplier, fixed_coder(scheme)};
    if (relu && !multiplier && h.coder.low < 0) h.coder.low = 0;
    return h;
  }

  // Codes (rows, channels) of y (rows, channels), which is written over; *nan where one is NaN.
  void apply(const Machine& machine, float* y, int64_t rows, int64_t channels, int8_t* codes, bool* nan) const {
    for (int64_t i = 0; multiplier && i < rows; ++i) {
      float* row = y + i * channels;
      floats->batch_norm_each(row, channels, multiplier, offset, relu, row);
    }
    encode(machine, coder, y, rows * channels, codes, nan);
  }
};

}  // namespace qcore
