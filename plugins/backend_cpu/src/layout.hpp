// The prepared weight: one flat, position-independent block of bytes that a kernel reads. It is made at load time
// and never stored. All integers are native.
//
// A *panel* is ROW_BLOCKS * lanes rows (lanes: 32-bit lanes of the vector that runs it). Columns go in *quads* of four.
// For each quad the unpacked panel has ROW_BLOCKS vectors; lane l of vector r holds the four codes of row r * lanes + l.
// Codes are split into *planes* of 8, 4, 2 or 1 bits (3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1), low bits first,
// and a plane puts the bits of several vectors into one (see fields.hpp).
//
// Columns are cut into *segments*, each with its own integer sum: the groups of a group-wise scale, or pieces so short
// that a sum fits 32 bits. A segment is filled up with zero codes to a multiple of eight columns.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qcore {

constexpr uint64_t MAGIC = 0x35555043726f6371;  // "qcorCPU5"
constexpr int ROW_BLOCKS = 4;
constexpr int MAX_BUCKETS = 8;
constexpr int MAX_PLANES = 3;
constexpr int64_t LONGEST_SEGMENT = 65536;  // 255 * 128 * 65536 < 2**31, and so is every scaled plane's sum
constexpr int64_t ALIGNMENT = 64;

enum class Input : int32_t { dynamic = 0, fixed = 1, coded = 2, real = 3, columns = 4 };

// How a layer's input becomes integer codes: qcore.tensor.ActivationScheme.
struct Activation {
  Input input;
  int32_t bits;      // with columns 8 or 16: those of 16 are split into two bytes, each a row of codes
  int32_t symmetric;
  float floor;       // dynamic and symmetric: lower limit of the bound
  float scale;       // fixed, and columns
  float inverse;     // fixed
  float zero_point;  // fixed and affine
};

// Rows of one width. Offsets are in bytes from the start of the block.
struct Bucket {
  int32_t bits;
  int32_t step;          // from a stored code to the next
  int32_t rows;
  int32_t panels;
  int32_t first_row;     // of the output, where the rows follow one another; -1: see order
  int32_t uniform;       // all offsets are equal
  int32_t nibbles;       // the bits of the four, or two, columns that a look-up takes lie together: lookups_avx512.hpp
  int64_t data;          // panels
  int64_t panel_nbytes;
  int64_t offset;        // int32 (panels, segments, panel rows): the code of u is step * u + offset, zero point included
  int64_t sum;           // the same: sum of the stored codes
  int64_t scale;         // float, the same shape
  int64_t bias;          // float (padded rows); -0 where there is none, which leaves every sum as it is
  int64_t order;         // int32 (padded rows): row of the output
};

struct Header {
  uint64_t magic;
  int64_t nbytes;
  int64_t rows;
  int64_t cols;
  int64_t segments;
  int64_t segment;         // columns of a full segment
  int64_t padded_segment;  // the same, filled up to a multiple of eight
  int32_t lanes;
  int32_t split8;          // 8-bit codes are two planes of 4 bits
  int32_t grouped;         // float sum over segments, else one integer sum
  int32_t wide;            // the integer sum needs 64 bits
  int32_t buckets;
  int32_t relu;
  int32_t granule;         // narrower rows fill the panels of wider ones up to a multiple of so many rows
  int32_t isa;             // id of the instruction set that it was prepared for (machine.hpp)
  int32_t depthwise;       // a block of another kind: depthwise.hpp
  Activation activation;
  int64_t columns;         // Input::columns: float (3, cols), their inverses, largest codes and steps
  Bucket bucket[MAX_BUCKETS];
};

// A plane of `bits` bits; its lowest bit is bit `shift` of the code.
struct Plane {
  int bits;
  int shift;
};

struct Planes {
  int count;
  Plane plane[MAX_PLANES];
};

inline Planes planes_of(int bits, bool split8) {
  switch (bits) {
    case 3: return {2, {{2, 0}, {1, 2}}};
    case 5: return {2, {{4, 0}, {1, 4}}};
    case 6: return {2, {{4, 0}, {2, 4}}};
    case 7: return {3, {{4, 0}, {2, 4}, {1, 6}}};
    case 8: return split8 ? Planes{2, {{4, 0}, {4, 4}}} : Planes{1, {{8, 0}}};
    default: return {1, {{bits, 0}}};
  }
}

// Bytes of `columns` columns of a plane of one panel.
inline int64_t plane_nbytes(int bits, int64_t columns, int lanes) { return columns * lanes * ROW_BLOCKS * bits / 8; }

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

inline int64_t segment_length(const Header& h, int64_t s) {
  const int64_t left = h.cols - s * h.segment;
  return left < h.segment ? left : h.segment;
}

// Rows of codes that a row of activations becomes: the high bytes and the low ones of 16-bit codes, or one.
inline int code_rows(const Header& h) { return h.activation.input == Input::columns && h.activation.bits == 16 ? 2 : 1; }

inline const Header& header_of(const uint8_t* block) { return *reinterpret_cast<const Header*>(block); }

template <class T>
const T* at(const uint8_t* block, int64_t offset) {
  return reinterpret_cast<const T*>(block + offset);
}

}  // namespace qcore
