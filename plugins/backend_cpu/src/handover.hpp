// Codes that a packed layer of a plan hands over: its outputs, finished and encoded as the layers that read them would.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "floats.hpp"
#include "linear.hpp"

namespace qcore {

// What is done to outputs: a batch norm as a multiplier and an offset a channel, a ReLU, a largest number, and the coder.
class HandOver {
 public:
  // `multiplier` and `offset` (channels,) may be null: no batch norm. A ReLU without one costs nothing, as a limit of
  // the codes, and so does the largest number: rounding and clamping are monotone.
  HandOver(const FloatKernels& floats, int64_t channels, const float* multiplier, const float* offset, bool relu,
           float limit, const Activation& scheme)
      : floats_(floats), relu_(relu), coder_(fixed_coder(scheme)) {
    if (channels < 1) throw std::invalid_argument("outputs without channels");
    if (relu && !multiplier && coder_.low < 0) coder_.low = 0;
    const float top = std::nearbyint(limit * coder_.inverse);
    if (top < coder_.high) coder_.high = top;
    for (int64_t i = 0; multiplier && (i == 0 || int64_t(offset_.size()) < LONG); ++i) {
      multiplier_.insert(multiplier_.end(), multiplier, multiplier + channels);
      offset_.insert(offset_.end(), offset, offset + channels);
    }
  }

  // Codes (pixels, channels) of n numbers, which are written over; *nan where one is NaN.
  void apply(const Machine& machine, float* y, int64_t n, int8_t* codes, bool* nan) const {
    const int64_t period = int64_t(multiplier_.size());
    for (int64_t i = 0; period && i < n; i += period) {
      const int64_t count = n - i < period ? n - i : period;
      floats_.batch_norm_each(y + i, count, multiplier_.data(), offset_.data(), relu_, y + i);
    }
    encode(machine, coder_, y, n, codes, nan);
  }

 private:
  static constexpr int64_t LONG = 256;  // numbers that are worth a call

  const FloatKernels& floats_;
  std::vector<float> multiplier_, offset_;  // of as many pixels as make that many numbers
  bool relu_;
  Coder coder_;
};

}  // namespace qcore
