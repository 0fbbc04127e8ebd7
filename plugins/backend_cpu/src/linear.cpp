#include "linear.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "memory.hpp"
#include "pool.hpp"

namespace qcore {
namespace {

constexpr float TINY = 0x1p-100f;
constexpr double LARGEST = 0x1p128 - 0x1p106;
constexpr int64_t ROWS_AT_ONCE = 256;
constexpr int64_t TASKS_A_THREAD = 8, FEWEST_ROWS = 24;
constexpr int64_t WORTH_A_THREAD = 1 << 21;  // products below which a woken thread comes too late to help

// Codes around a zero point: the code less 128 is the byte.
Coder affine(float scale, float inverse, float zero, int bits) {
  const float q = float((1 << bits) - 1);
  const int z = int(zero);
  return {scale, inverse, -zero, q - zero, 128 - z, 1, 128 - z, z, false};
}

// Odd codes of eight bits are 2 * byte + 1: halve them on the way.
int64_t encode_odd(const float* x, int64_t n, const Coder& c, int8_t* codes, bool* nan) {
  int64_t total = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (x[i] != x[i]) *nan = true;
    const float v = x[i] > c.low ? (x[i] < c.high ? x[i] : c.high) : c.low;
    codes[i] = int8_t((int(v) - c.less) / c.step);
    total += codes[i];
  }
  return total;
}

void run_reals(const Machine& machine, const uint8_t* block, const float* x, int64_t rows, float* y, int threads) {
  const Header& h = header_of(block);
  const int use = rows * h.cols * h.rows < WORTH_A_THREAD ? 1 : threads;
  const Reals reals{x, h.cols, rows};
  const Output out{y, h.rows, 1};
  parallel_for(use, panels_of(h), [&](int64_t i) { run_panel(machine, block, i, reals, out); });
}

// Pieces of the rows of activations, so that a few panels still occupy all threads to the end.
int64_t pieces_of(int threads, int64_t panels, int64_t rows) {
  if (threads < 2 || panels >= TASKS_A_THREAD * threads) return 1;
  const int64_t wanted = (TASKS_A_THREAD * threads + panels - 1) / panels, most = rows / FEWEST_ROWS;
  return most < 1 ? 1 : wanted < most ? wanted : most;
}

// Small layers find their buffers on the stack.
struct Buffers {
  static constexpr int64_t SMALL = 16384, FEW = 16;
  alignas(64) int8_t small_codes[SMALL];
  Token few_tokens[FEW];
  int32_t few_totals[FEW];
  Memory<int8_t> codes;
  Memory<Token> tokens;
  Memory<int32_t> totals;

  int8_t* code_buffer(int64_t n) { return n <= SMALL ? small_codes : (codes = allocate<int8_t>(n)).get(); }
  Token* token_buffer(int64_t n) { return n <= FEW ? few_tokens : (tokens = allocate<Token>(n)).get(); }
  int32_t* total_buffer(int64_t n) { return n <= FEW ? few_totals : (totals = allocate<int32_t>(n)).get(); }
};

Token copy_row(const Machine& machine, const Header& h, const Bytes& from, int64_t row, int8_t* codes,
               int32_t* totals) {
  const Coder c = fixed_coder(h.activation);
  const int8_t* x = from.codes + row * h.cols;
  for (int64_t s = 0; s < h.segments; ++s) {
    const int64_t n = segment_length(h, s);
    int8_t* to = codes + s * h.padded_segment;
    std::memcpy(to, x, size_t(n));
    std::memset(to + n, 0, size_t(h.padded_segment - n));
    totals[s] = int32_t(machine.rows->sum(to, n) + n * c.shift);
    x += n;
  }
  return {from.nan[row] ? std::numeric_limits<float>::quiet_NaN() : c.scale, c.step, c.shift};
}

// Codes of columns that differ: of 16 bits, their high bytes and then, `stride` further, their low ones.
void encode_columns(const Machine& machine, const uint8_t* block, const float* x, int8_t* codes, int64_t stride,
                    int32_t* totals, Token* tokens) {
  const Header& h = header_of(block);
  const bool wide = code_rows(h) > 1;
  const int shift = h.activation.symmetric ? 0 : 128;  // of one byte, or of the high one; low bytes are unsigned
  const float* numbers = at<float>(block, h.columns);
  bool nan = false;
  for (int64_t s = 0; s < h.segments; ++s) {
    const int64_t n = segment_length(h, s), k = s * h.segment;
    const InputColumns columns{numbers + k, numbers + h.cols + k, numbers + 2 * h.cols + k, bool(h.activation.symmetric)};
    int8_t *to = codes + s * h.padded_segment, *low = wide ? to + stride : nullptr;
    const ByteSums sums = machine.coding->encode_columns(x + k, n, columns, shift, to, low, &nan);
    std::memset(to + n, 0, size_t(h.padded_segment - n));
    totals[s] = int32_t(sums.codes + n * shift);
    if (!wide) continue;
    std::memset(low + n, 0, size_t(h.padded_segment - n));
    totals[h.segments + s] = int32_t(sums.low + n * 128);
  }
  const float scale = nan ? std::numeric_limits<float>::quiet_NaN() : h.activation.scale;
  tokens[0] = {scale, 1, shift};
  if (wide) tokens[1] = {scale, 1, 128};
}

Token encode_row(const Machine& machine, const Header& h, const Source& from, int64_t row, int8_t* codes,
                 int32_t* totals) {
  if (from.bytes.codes) return copy_row(machine, h, from.bytes, row, codes, totals);
  const float* x = from.x + row * h.cols;
  const Coder c = coder_of(machine, h.activation, x, h.cols, from.coded, row);
  bool nan = false;
  for (int64_t s = 0; s < h.segments; ++s) {
    const int64_t n = segment_length(h, s);
    int8_t* to = codes + s * h.padded_segment;
    totals[s] = int32_t(c.step * encode(machine, c, x, n, to, &nan) + n * c.shift);
    std::memset(to + n, 0, size_t(h.padded_segment - n));
    x += n;
  }
  return {nan ? std::numeric_limits<float>::quiet_NaN() : c.scale, c.step, c.shift};
}

}  // namespace

Coder symmetric_coder(float bound, int bits) {
  const int q = (1 << (bits - 1)) - 1;
  const float c = bound > TINY ? bound : TINY, limit = float(LARGEST / q);
  const float scale = c / float(q);
  return {scale < limit ? scale : limit, float(q) / c, float(-q), float(q), 0, 1, 0, 0, true};
}

Coder dynamic_affine_coder(float low, float high, int bits) {
  const float q = float((1 << bits) - 1);
  const float a = high / q, b = low / q;
  float scale = a - b;
  if (scale < TINY) scale = TINY;
  const float inverse = 1.0f / scale;
  const float zero = std::nearbyintf(-low * inverse);
  return affine(scale, inverse, zero > 0 ? (zero < q ? zero : q) : 0, bits);
}

Coder fixed_coder(const Activation& a) {
  if (!a.symmetric) return affine(a.scale, a.inverse, a.zero_point, a.bits);
  const float q = float((1 << (a.bits - 1)) - 1);
  return {a.scale, a.inverse, -q, q, 0, 1, 0, 0, false};
}

Coder coder_of(const Machine& machine, const Activation& a, const float* x, int64_t n, const Coded* coded,
               int64_t index) {
  if (coded) {
    const int64_t i = coded->per_row ? index : 0;
    const int zero = coded->zero_point ? int(coded->zero_point[i]) : 0;
    const float low = float(-128 * coded->step + coded->less), high = float(127 * coded->step + coded->less);
    return {coded->scale[i], 1, low, high, coded->less, coded->step, coded->less - zero, zero, false};
  }
  if (a.input == Input::fixed) return fixed_coder(a);
  float low, high;
  machine.coding->range(x, n, &low, &high);
  if (!a.symmetric) return dynamic_affine_coder(low, high, a.bits);
  const float bound = -low > high ? -low : high;
  return symmetric_coder(bound > a.floor ? bound : a.floor, a.bits);
}

int64_t encode(const Machine& machine, const Coder& c, const float* x, int64_t n, int8_t* codes, bool* nan) {
  if (c.step != 1) return encode_odd(x, n, c, codes, nan);
  if (c.within && machine.coding->encode_within) return machine.coding->encode_within(x, n, c.inverse, codes, nan);
  return machine.coding->encode(x, n, c.inverse, c.low, c.high, c.less, codes, nan);
}

void run_linear(const Machine& machine, const uint8_t* block, const Source& from, int64_t rows, float* y, int threads) {
  const Header& h = header_of(block);
  if (h.activation.input == Input::real) return run_reals(machine, block, from.x, rows, y, threads);
  const int64_t stride = codes_stride(h), most = rows < ROWS_AT_ONCE ? rows : ROWS_AT_ONCE;
  const int64_t panels = panels_of(h), parts = code_rows(h);
  Buffers buffers;
  int8_t* codes = buffers.code_buffer(most * parts * stride);
  Token* tokens = buffers.token_buffer(most * parts);
  int32_t* totals = buffers.total_buffer(most * parts * h.segments);
  for (int64_t m = 0; m < rows; m += most) {
    const int64_t n = rows - m < most ? rows - m : most;
    const int64_t work = n * h.cols * h.rows;
    const int use = work < WORTH_A_THREAD ? 1 : threads;
    const int64_t blocks = n >= 16 ? (n + 7) / 8 : 1, each = (n + blocks - 1) / blocks;
    parallel_for(use, blocks, [&](int64_t i) {
      for (int64_t r = i * each; r < n && r < (i + 1) * each; ++r) {
        int8_t* to = codes + r * parts * stride;
        int32_t* sums = totals + r * parts * h.segments;
        if (h.activation.input == Input::columns) {
          encode_columns(machine, block, from.x + (m + r) * h.cols, to, stride, sums, tokens + r * parts);
        } else {
          tokens[r] = encode_row(machine, h, from, m + r, to, sums);
        }
      }
    });
    const bool simple = plain(tokens, n * parts);
    const int64_t pieces = pieces_of(use, panels, n), piece = (n + pieces - 1) / pieces;
    parallel_for(use, panels * pieces, [&](int64_t i) {
      const int64_t first = i % pieces * piece, left = n - first;
      if (left <= 0) return;
      const int64_t at_code = first * parts, count = (left < piece ? left : piece) * parts;
      const Codes coded_rows{codes + at_code * stride, stride, tokens + at_code, totals + at_code * h.segments, count,
                             simple, 1, 0};
      run_panel(machine, block, i / pieces, coded_rows, Output{y + (m + first) * h.rows, h.rows, 1});
    });
  }
}

}  // namespace qcore
