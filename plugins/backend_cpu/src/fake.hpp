// Fake quantization for training: from floats to the floats that the codes stand for, in one read after the range.
#pragma once

#include <cstdint>

#include "product.hpp"

namespace qcore {

// y (slices, n) = x with each slice rounded to `bits` bits over its own range; false if x holds NaN or infinity.
bool fake_quantize(const RowKernels& rows, const float* x, int64_t slices, int64_t n, int bits, bool symmetric,
                   float* y, int threads);

}  // namespace qcore
