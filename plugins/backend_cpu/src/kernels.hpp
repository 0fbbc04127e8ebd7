// The table of what differs between instruction sets. Everything else is written once.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout.hpp"

namespace qcore {

// Codes of one row of activations and what the epilogue needs of them.
struct Token {
  float scale;
  int32_t step;    // x = step * code + shift; NaN rows have scale NaN
  int32_t shift;
};

inline bool plain(const Token* tokens, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    if (tokens[i].step != 1 || tokens[i].shift != 0) return false;
  }
  return true;
}

// How a slice is fake-quantized: y = (clamp(round(x * inverse) + zero, low, high) - zero) * scale.
struct Fake {
  float inverse, scale, low, high, zero;
};

// A panel, rows of activations, and where the finished outputs go.
struct Product {
  const uint8_t* plane;      // of the first segment
  ptrdiff_t segment_nbytes;
  Planes planes;             // one, unless there is one row of activations
  int segments;              // more than one: each has its own scale
  int pairs, last_pairs;     // of quads, in a full segment and in the last
  const int8_t* codes;       // (rows, codes_stride)
  ptrdiff_t codes_stride;
  ptrdiff_t codes_segment;   // bytes from segment to segment
  int pieces;                // of a row of codes, in a segment; one, unless there is one segment
  ptrdiff_t piece_gap;       // bytes from the end of a piece to the start of the next
  const Token* tokens;       // (rows,)
  const int32_t* totals;     // (rows, segments)
  int32_t step;              // of the weight's codes
  // offset * total (rows, segments), where all offsets are equal, all steps 1 and all shifts 0; or null
  const int32_t* corrections;
  const int32_t* offset;     // (segments, panel rows), as are sum and scale
  const int32_t* sum;
  const float* scale;
  const float* bias;         // (panel rows,)
  bool relu;
  int valid;                 // rows of the panel that exist
  float* y;                  // (rows, y_stride)
  ptrdiff_t y_stride;
  int32_t* raw;              // (rows, panel rows): where the sums of the codes themselves go, and nothing else; or null
};

// The same for rows of floats; codes of one plane, with one offset.
struct RealProduct {
  const uint8_t* plane;
  ptrdiff_t segment_nbytes;
  int bits;
  bool nibbles;              // of Bucket
  int segments;
  int64_t segment, last_segment;  // columns
  const float* x;            // (rows, stride)
  ptrdiff_t stride;
  int32_t step, offset;      // a code u is the number step * u + offset
  const float* scale;        // (segments, panel rows)
  const float* bias;         // (panel rows,)
  bool relu;
  int valid;
  float* y;                  // (rows, y_stride)
  ptrdiff_t y_stride;
};

struct Kernels {
  const char* name;
  int lanes;
  int gemm_rows;    // rows of activations in one register tile
  bool split8;      // 8-bit codes are prepared as two planes of 4 bits
  int gemv_limit;   // batches up to this many rows take the matrix-vector kernel

  // sums[panel rows] += (plane . codes) << shift, over `pairs` pairs of quads.
  void (*gemv)(int bits, const uint8_t* plane, const int8_t* codes, int pairs, int shift, int32_t* sums);

  // Unpack the planes of `pairs` pairs of quads to one byte a code; plane[i] points at its first byte.
  void (*unpack)(const Planes& planes, const uint8_t* const* plane, int pairs, uint8_t* out);

  // sums (rows, stride) += (panel . codes) << shift, for an unpacked panel of codes below 2**bits; null where `product`
  // does it.
  void (*gemm)(const uint8_t* panel, int bits, int shift, int pairs, const int8_t* codes, ptrdiff_t codes_stride,
               int rows, int32_t* sums, ptrdiff_t stride);

  // Finished outputs of `rows` rows of activations; null where sums go through memory.
  void (*product)(const Product& p, int rows);

  // The same for few rows of floats, or null.
  void (*real_product)(const RealProduct& p, int rows);
};

struct ByteSums {
  int64_t codes, low;
};

// Columns of an input, each with its own clip and width: float (n,) each.
struct InputColumns {
  const float* inverse;
  const float* largest;
  const float* step;
  bool symmetric;
};

// From a row of activations to its codes.
struct RowCoding {
  // Range of a row: low <= 0 <= high.
  void (*range)(const float* x, int64_t n, float* low, float* high);

  // codes = clamp(round(x * inverse), low, high) - less; returns their sum and sets *nan if a product is NaN.
  int64_t (*encode)(const float* x, int64_t n, float inverse, float low, float high, int less, int8_t* codes,
                    bool* nan);

  // The same where every product is NaN or between -127 and 127, and `less` is 0; or null.
  int64_t (*encode_within)(const float* x, int64_t n, float inverse, int8_t* codes, bool* nan);

  // code = clamp(round(x * inverse), -largest or 0, largest) * step of each column. If `low` is null: codes = code - less.
  // Else code = 256 * high + low of 0 to 255; codes = high - less, low = low - 128. Returns the sums of the bytes.
  ByteSums (*encode_columns)(const float* x, int64_t n, const InputColumns& columns, int less, int8_t* codes, int8_t* low,
                             bool* nan);
};

// What touches floats or single rows; instruction sets share these.
struct RowKernels {
  // Sum of n bytes.
  int64_t (*sum)(const int8_t* codes, int64_t n);

  // out = float(step * s + offset * total + shift * sum) * (x_scale * scale), added to `out` if `add`.
  void (*scale)(const int32_t* s, int64_t n, int32_t step, const int32_t* offset, int32_t total, int32_t shift,
                const int32_t* sum, float x_scale, const float* scale, bool add, float* out);

  // tile (4 * quads, 4 * lanes) = float(step * u + offset) of an unpacked panel.
  void (*widen)(const uint8_t* panel, int quads, int lanes, int32_t step, const int32_t* offset, float* tile);

  // sums (rows, width) += x (rows, stride) . tile (n, width), with fused multiply-adds; width is a multiple of 16.
  void (*real_gemm)(const float* tile, int n, int width, const float* x, ptrdiff_t stride, int rows, float* sums);

  // out = s * scale, added to `out` if `add`.
  void (*real_scale)(const float* s, int64_t n, const float* scale, bool add, float* out);

  // to (cols, to_stride) = transpose of from (rows, from_stride).
  void (*transpose)(const float* from, ptrdiff_t from_stride, int rows, int cols, float* to, ptrdiff_t to_stride);
  void (*transpose_bytes)(const int8_t* from, ptrdiff_t from_stride, int rows, int cols, int8_t* to,
                          ptrdiff_t to_stride);

  // As range(), and *bad where x holds NaN.
  void (*finite_range)(const float* x, int64_t n, float* low, float* high, bool* bad);

  // y by the formula of Fake; without its zero if `symmetric`, and else limited to finite numbers.
  void (*fake)(const float* x, int64_t n, const Fake& f, bool symmetric, float* y);

  // y += bias; relu; in place.
  void (*finish)(float* y, int64_t n, const float* bias, bool relu);
};

extern const Kernels PORTABLE, EMULATED512;
extern const RowCoding PORTABLE_CODING;
extern const RowKernels PORTABLE_ROWS;
#if defined(QCORE_X86)
extern const Kernels AVX2, AVXVNNI, AVX512VL, AVX512VNNI;
extern const RowCoding AVX2_CODING, AVX512_CODING;
extern const RowKernels AVX2_ROWS;
#endif

}  // namespace qcore
