// From stored codes (codecs packn@1 and trit5@1) to the prepared block of layout.hpp.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.hpp"

namespace qcore {

struct StoredBlock {
  int bits;
  bool trits;  // trit5@1, else packn@1
  int step;
  int offset;  // code = step * u + offset
  const uint8_t* data;
  int64_t rows;
  int64_t row_nbytes;
};

struct Stored {
  std::vector<StoredBlock> blocks;
  int64_t cols;
  int64_t group;  // columns a group, 0: none
  bool wide;
  bool relu;
  const float* scale;
  const uint8_t* zero_point;  // shaped like scale, or null
  bool scale_rows;            // a scale for each row, else one for all
  const float* bias;          // or null
  const int32_t* order;       // stored row -> row of the output, or null
  const int32_t* columns;     // column of the panel -> stored column, or null
  Activation activation;
  const float* input_columns;  // (3, cols), or null
  bool depthwise;
};

// One row's codes, one a byte; `out` has room for eight more.
void decode_row(const StoredBlock& b, int64_t row, int64_t cols, uint8_t* out);

// The header of the block that `stored` makes; its nbytes says what to allocate.
Header plan(const Stored& stored, const Kernels& kernels);

// Write the block.
void fill(const Stored& stored, const Header& header, uint8_t* out);

}  // namespace qcore
