// Products of coded rows with a prepared weight: what linear layers and convolutions share.
#pragma once

#include <cstdint>

#include "depthwise.hpp"
#include "kernels.hpp"

namespace qcore {

struct FakeKernels;  // fake.hpp

// The kernels that run a block, and those of training.
struct Machine {
  const Kernels* kernels;
  const RowCoding* coding;
  const RowKernels* rows;
  const FakeKernels* fakes;
  DepthwiseKernel depthwise;
};

// Coded rows: x = step * code + shift in each segment, with the same scale in all.
struct Codes {
  const int8_t* codes;      // (rows, stride); a segment starts every padded_segment bytes
  int64_t stride;
  const Token* tokens;      // (rows,)
  const int32_t* totals;    // (rows, segments): sum of step * code + shift over the segment, modulo 2**32
  int64_t rows;
  bool plain;               // every token has step 1 and shift 0
  int64_t pieces;           // a row lies in so many pieces of equal length,
  int64_t piece_stride;     // which start so many bytes apart (no matter if there is one)
};

// Rows of floats, for layers whose activations stay float.
struct Reals {
  const float* x;  // (rows, stride)
  int64_t stride;
  int64_t rows;
};

// Where the outputs go: row m, output r at y[m * row_stride + r * column_stride].
struct Output {
  float* y;
  int64_t row_stride;
  int64_t column_stride;
};

int64_t panels_of(const Header& h);

// Bytes between the coded rows of a block, padded so that rows do not fall on the same cache set.
int64_t codes_stride(const Header& h);

// Run panel `index` (of all buckets) for all rows.
void run_panel(const Machine& machine, const uint8_t* block, int64_t index, const Codes& x, const Output& out);
void run_panel(const Machine& machine, const uint8_t* block, int64_t index, const Reals& x, const Output& out);

}  // namespace qcore
