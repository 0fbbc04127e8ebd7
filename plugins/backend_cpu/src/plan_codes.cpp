#include "plan_codes.hpp"

#include <cmath>
#include <cstring>

#include "memory.hpp"

namespace qcore {

void MaxPoolCodesStep::run(const Frame& f) const {
  const Shape &from = in_shape(f), &to = out_shape(f);
  const int64_t channels = from.dim[0], height = from.dim[1], line = from.dim[2] * channels;
  int8_t* largest = scratch<Purpose::codes>(line);  // of the window's rows, at each pixel of a line
  int8_t* y = codes_out(f);
  for (int64_t i = 0; i < f.rows * to.dim[1]; ++i) {
    const int8_t* image = codes_in(f) + i / to.dim[1] * from.size();
    std::memset(largest, ends.least, size_t(line));
    for (int64_t a = 0; a < window[0]; ++a) {
      const int64_t row = i % to.dim[1] * window[2] - window[4] + a * window[6];
      if (row >= 0 && row < height) floats.larger_bytes(image + row * line, line, largest);
    }
    for (int64_t j = 0; j < to.dim[2]; ++j, y += channels) {
      std::memset(y, ends.least, size_t(channels));
      for (int64_t b = 0; b < window[1]; ++b) {
        const int64_t at = (j * window[3] - window[5] + b * window[7]) * channels;
        if (at >= 0 && at < line) floats.larger_bytes(largest + at, channels, y);
      }
    }
  }
  std::memcpy(nan_out(f), nan_in(f), size_t(f.rows));
}

void ReluCodesStep::run(const Frame& f) const {
  const int64_t n = f.rows * in_shape(f).size();
  const int8_t* x = codes_in(f);
  int8_t* y = codes_out(f);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] > ends.zero ? x[i] : ends.zero;
  std::memcpy(nan_out(f), nan_in(f), size_t(f.rows * tokens_of(in_shape(f), kind)));
}

LimitCodesStep::LimitCodesStep(int x, int y, Kind kind, float top, const Activation& scheme)
    : Step({x}, y), kind(kind) {
  const Coder c = fixed_coder(scheme);
  const float code = std::nearbyint(top * c.inverse);
  most = int8_t(int(code < c.low ? c.low : code > c.high ? c.high : code) - c.less);
}

void LimitCodesStep::run(const Frame& f) const {
  const int64_t n = f.rows * in_shape(f).size();
  const int8_t* x = codes_in(f);
  int8_t* y = codes_out(f);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] < most ? x[i] : most;
  std::memcpy(nan_out(f), nan_in(f), size_t(f.rows * tokens_of(in_shape(f), kind)));
}

void FlattenCodesStep::run(const Frame& f) const {
  const Shape& from = in_shape(f);
  const int64_t channels = from.first(), size = from.size(), area = channels ? size / channels : 0;
  const int8_t* x = codes_in(f);
  int8_t* y = codes_out(f);
  for (int64_t image = 0; image < f.rows; ++image, x += size, y += size) {
    if (area == 1 || channels == 1) std::memcpy(y, x, size_t(size));
    else kernels.transpose_bytes(x, channels, int(area), int(channels), y, area);
  }
  std::memcpy(nan_out(f), nan_in(f), size_t(f.rows));
}

}  // namespace qcore
