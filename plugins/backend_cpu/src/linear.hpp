// A packed linear layer: float rows in, float rows out.
#pragma once

#include <cstdint>

#include "product.hpp"

namespace qcore {

// Integer codes given as floats, with one scale (and zero point) a row or one for all: qcore.tensor.Encoded.
struct Coded {
  const float* scale;
  const float* zero_point;  // or null
  bool per_row;
  int32_t step;   // 2 where the codes are odd numbers of eight bits
  int32_t less;   // byte = (code - less) / step
};

// Codes under a static range, as bytes: those that a Coder makes.
struct Bytes {
  const int8_t* codes;
  const uint8_t* nan;  // 1 for each token that held NaN: a row of a linear layer, an image
};

// A layer's input. Floats, of which `coded` says what they are where the block's input is coded; or bytes, where it is
// fixed.
struct Source {
  const float* x = nullptr;
  const Coded* coded = nullptr;
  Bytes bytes{nullptr, nullptr};
};

// y (rows, h.rows) from (rows, h.cols).
void run_linear(const Machine& machine, const uint8_t* block, const Source& from, int64_t rows, float* y, int threads);

// What makes the codes of a row: byte = clamp(round(x * inverse), low, high) - less, x = step * byte + shift.
struct Coder {
  float scale, inverse, low, high;
  int32_t less, step, shift;
  int32_t zero_point;  // of the codes themselves
  bool within;         // the range is the row's own, and no code needs to be clamped
};

// The coders of a range: qcore.tensor.integer.
Coder symmetric_coder(float bound, int bits);
Coder dynamic_affine_coder(float low, float high, int bits);

// The coder of a row of n features; row `index` of `coded`, where the input is coded.
Coder coder_of(const Machine& machine, const Activation& a, const float* x, int64_t n, const Coded* coded,
               int64_t index);

// The coder of a static range.
Coder fixed_coder(const Activation& a);

// Code n features; returns the sum of the bytes and sets *nan where one is NaN.
int64_t encode(const Machine& machine, const Coder& c, const float* x, int64_t n, int8_t* codes, bool* nan);

}  // namespace qcore
