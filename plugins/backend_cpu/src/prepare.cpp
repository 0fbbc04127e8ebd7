#include "prepare.hpp"

#include <cstring>
#include <stdexcept>

#include "depthwise.hpp"

namespace qcore {
namespace {

// Put a plane's part of one code into a panel. Field order: see Steps::fields.
void put(uint8_t* plane, const Plane& p, int lanes, int64_t column, int panel_row, uint8_t code) {
  const int vector = 4 * lanes, r = panel_row / lanes, lane = panel_row % lanes;
  const int64_t quad = column / 4;
  const int byte = lane * 4 + int(column % 4);
  const uint8_t part = uint8_t((code >> p.shift) & ((1u << p.bits) - 1));
  switch (p.bits) {
    case 8: plane[(quad * 4 + r) * vector + byte] = part; break;
    case 4: plane[(quad * 2 + (r & 1)) * vector + byte] |= uint8_t(part << (r & 2 ? 4 : 0)); break;
    case 2: plane[quad * vector + byte] |= uint8_t(part << (2 * r)); break;
    default: plane[quad / 2 * vector + byte] |= uint8_t(part << (r + (quad & 1) * 4));
  }
}

// Stored rows that become one bucket, those of narrower widths among them with their codes as such of its width.
struct Range {
  int bits;
  int step;
  int offset;
  int64_t first, rows;
};

// Whether a row's codes are codes of the widths after its own, at their step.
bool widths_ascend(const std::vector<StoredBlock>& blocks) {
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].trits && blocks[i].bits != 2) return false;  // then they are none of its width
    if (i == 0) continue;
    if (blocks[i].bits <= blocks[i - 1].bits || blocks[i - 1].step % blocks[i].step) return false;
  }
  return true;
}

// A width's last panel, or granule of it, would hold rows that do not exist: narrower rows take their places, so that rows
// of several widths cost no more than those of one. The widest come first, because what takes longest had better start
// first.
std::vector<Range> ranges_of(const Stored& stored, int64_t granule) {
  int64_t end = 0;
  for (const StoredBlock& block : stored.blocks) end += block.rows;
  const bool fill = widths_ascend(stored.blocks);
  std::vector<Range> ranges;
  int64_t start = end;
  for (size_t i = stored.blocks.size(); i-- > 0;) {
    const StoredBlock& block = stored.blocks[i];
    start -= block.rows;
    const int64_t left = end - start, padded = fill ? round_up(left, granule) : left;
    const int64_t rows = left <= 0 ? 0 : padded < end ? padded : end;
    const Range range{block.bits, block.step, block.offset, end - rows, rows};
    if (rows || (i == 0 && ranges.empty())) ranges.push_back(range);
    end -= rows;
  }
  return ranges;
}

// The same for look-ups: the columns of a nibble of 1-bit codes are a quad's, of 2-bit codes a quad's halves'.
void put_nibble(uint8_t* plane, int bits, int lanes, int64_t column, int panel_row, uint8_t code) {
  const int r = panel_row / lanes, lane = panel_row % lanes, j = int(column % 4);
  const int64_t quad = column / 4, vector = bits == 1 ? quad / 2 : quad;
  const int bit = bits == 1 ? 4 * (r + 4 * int(quad & 1)) + j : 4 * (2 * r + j / 2) + 2 * (j % 2);
  plane[vector * 4 * lanes + lane * 4 + bit / 8] |= uint8_t(code << (bit % 8));
}

template <class T>
T* place(uint8_t* block, int64_t offset) {
  return reinterpret_cast<T*>(block + offset);
}

struct Filler {
  const Stored& stored;
  const Header& h;
  uint8_t* out;
  std::vector<uint8_t> decoded, row;

  void bucket(const Bucket& b, const Range& range) {
    size_t index = 0;
    int64_t before = 0;  // rows of the blocks before
    for (int64_t i = 0; i < b.rows; ++i) {
      const int64_t at = range.first + i;
      while (at >= before + stored.blocks[index].rows) before += stored.blocks[index++].rows;
      const StoredBlock& from = stored.blocks[index];
      decode_row(from, at - before, h.cols, decoded.data());
      const uint8_t times = uint8_t(from.step / range.step), up = uint8_t((from.offset - range.offset) / range.step);
      for (int64_t k = 0; k < h.cols; ++k) {
        row[size_t(k)] = uint8_t(decoded[size_t(stored.columns ? stored.columns[k] : k)] * times + up);
      }
      codes(b, i);
      numbers(b, range.offset, i, stored.order ? stored.order[at] : at);
    }
  }

  void codes(const Bucket& b, int64_t i) {
    const int panel_rows = ROW_BLOCKS * h.lanes;
    const Planes planes = planes_of(b.bits, h.split8);
    uint8_t* panel = out + b.data + i / panel_rows * b.panel_nbytes;
    for (int64_t s = 0, k = 0; s < h.segments; ++s) {
      for (int p = 0; p < planes.count; ++p) {
        for (int64_t j = 0; j < segment_length(h, s); ++j) {
          const int panel_row = int(i % panel_rows);
          if (b.nibbles) put_nibble(panel, b.bits, h.lanes, j, panel_row, row[size_t(k + j)]);
          else put(panel, planes.plane[p], h.lanes, j, panel_row, row[size_t(k + j)]);
        }
        panel += plane_nbytes(planes.plane[p].bits, h.padded_segment, h.lanes);
      }
      k += segment_length(h, s);
    }
  }

  void numbers(const Bucket& b, int offset, int64_t i, int64_t target) {
    const int64_t panel_rows = ROW_BLOCKS * h.lanes, scales = stored.group ? h.segments : 1;
    for (int64_t s = 0, k = 0; s < h.segments; ++s) {
      const int64_t from_scale = (stored.scale_rows ? target * scales : 0) + (stored.group ? s : 0);
      const int zero = stored.zero_point ? stored.zero_point[from_scale] : 0;
      const int64_t place_of = (i / panel_rows * h.segments + s) * panel_rows + i % panel_rows;
      int64_t total = 0;
      for (int64_t j = 0; j < segment_length(h, s); ++j) total += row[size_t(k++)];
      place<int32_t>(out, b.offset)[place_of] = offset - zero;
      place<int32_t>(out, b.sum)[place_of] = int32_t(total);
      place<float>(out, b.scale)[place_of] = stored.scale[from_scale];
    }
    place<float>(out, b.bias)[i] = stored.bias ? stored.bias[target] : -0.0f;
    place<int32_t>(out, b.order)[i] = int32_t(target);
  }
};

void plan_bucket(const Stored& stored, const Kernels& kernels, const Range& from, Header& h, Bucket& b) {
  const int64_t panel_rows = ROW_BLOCKS * kernels.lanes;
  b.bits = from.bits;
  b.step = from.step;
  b.rows = int32_t(from.rows);
  b.panels = int32_t(round_up(from.rows, panel_rows) / panel_rows);
  b.first_row = stored.order ? -1 : int32_t(from.first);
  b.uniform = stored.zero_point == nullptr;
  b.nibbles = b.uniform && b.bits <= 2 && kernels.real_product && h.activation.input == Input::real;
  b.panel_nbytes = h.segments * plane_nbytes(from.bits, h.padded_segment, kernels.lanes);
  const int64_t padded = b.panels * panel_rows;
  auto take = [&](int64_t nbytes) {
    const int64_t start = h.nbytes;
    h.nbytes = round_up(start + nbytes, ALIGNMENT);
    return start;
  };
  b.data = take(b.panels * b.panel_nbytes);
  b.offset = take(h.segments * padded * 4);
  b.sum = take(h.segments * padded * 4);
  b.scale = take(h.segments * padded * 4);
  b.bias = take(padded * 4);
  b.order = take(padded * 4);
  h.rows += from.rows;
}

}  // namespace

void decode_row(const StoredBlock& b, int64_t row, int64_t cols, uint8_t* out) {
  const uint8_t* p = b.data + row * b.row_nbytes;
  if (b.trits) {
    for (int64_t i = 0; i < cols; i += 5) {
      int value = p[i / 5];
      for (int64_t j = i; j < i + 5 && j < cols; ++j, value /= 3) out[j] = uint8_t(value % 3);
    }
    return;
  }
  uint32_t bits = 0;
  int held = 0;
  const uint32_t mask = (1u << b.bits) - 1;
  for (int64_t i = 0; i < cols; ++i) {
    if (held < b.bits) bits |= uint32_t(*p++) << held, held += 8;
    out[i] = uint8_t(bits & mask);
    bits >>= b.bits, held -= b.bits;
  }
}

Header plan(const Stored& stored, const Kernels& kernels) {
  if (stored.blocks.empty() || stored.blocks.size() > MAX_BUCKETS) throw std::invalid_argument("1 to 8 widths");
  if (stored.depthwise) return plan_depthwise(stored, kernels);
  Header h{};
  h.magic = MAGIC;
  h.nbytes = round_up(sizeof(Header), ALIGNMENT);
  h.cols = stored.cols;
  const int64_t pieces = (stored.cols + LONGEST_SEGMENT - 1) / LONGEST_SEGMENT;
  h.segment = stored.group ? stored.group : pieces > 1 ? round_up((stored.cols + pieces - 1) / pieces, 8) : stored.cols;
  if (h.segment > stored.cols) h.segment = stored.cols;
  if (h.segment > LONGEST_SEGMENT) throw std::invalid_argument("groups of more than 65536 columns");
  h.segments = h.segment ? (stored.cols + h.segment - 1) / h.segment : 1;
  h.padded_segment = round_up(h.segment, 8);
  h.lanes = kernels.lanes;
  h.split8 = kernels.split8;
  h.grouped = stored.group > 0;
  h.wide = !h.grouped && (stored.wide || h.segments > 1);
  // Products of floats skip row blocks that are empty, others take whole panels.
  const bool skips = stored.activation.input == Input::real && !stored.zero_point && kernels.real_product;
  h.granule = skips ? kernels.lanes : ROW_BLOCKS * kernels.lanes;
  const std::vector<Range> ranges = ranges_of(stored, h.granule);
  h.buckets = int32_t(ranges.size());
  h.relu = stored.relu;
  h.activation = stored.activation;
  h.columns = h.nbytes;
  if (stored.input_columns) h.nbytes = round_up(h.nbytes + 3 * h.cols * int64_t(sizeof(float)), ALIGNMENT);
  for (int i = 0; i < h.buckets; ++i) plan_bucket(stored, kernels, ranges[size_t(i)], h, h.bucket[i]);
  return h;
}

void fill(const Stored& stored, const Header& header, uint8_t* out) {
  if (stored.depthwise) return fill_depthwise(stored, header, out);
  std::memset(out, 0, size_t(header.nbytes));
  std::memcpy(out, &header, sizeof header);
  if (stored.input_columns) {
    std::memcpy(out + header.columns, stored.input_columns, size_t(3 * header.cols) * sizeof(float));
  }
  Filler filler{stored, header, out, {}, {}};
  filler.decoded.resize(size_t(header.cols) + 8);
  filler.row.resize(size_t(header.cols) + 8);
  const std::vector<Range> ranges = ranges_of(stored, header.granule);
  for (int i = 0; i < header.buckets; ++i) filler.bucket(header.bucket[i], ranges[size_t(i)]);
}

}  // namespace qcore
