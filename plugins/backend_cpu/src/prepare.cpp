#include "prepare.hpp"

#include <cstring>
#include <stdexcept>

namespace qcore {
namespace {

// One row's codes, one a byte.
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

template <class T>
T* place(uint8_t* block, int64_t offset) {
  return reinterpret_cast<T*>(block + offset);
}

struct Filler {
  const Stored& stored;
  const Header& h;
  uint8_t* out;
  std::vector<uint8_t> decoded, row;

  void bucket(int index, int64_t first) {
    const Bucket& b = h.bucket[index];
    const StoredBlock& from = stored.blocks[size_t(index)];
    for (int64_t i = 0; i < b.rows; ++i) {
      decode_row(from, i, h.cols, decoded.data());
      for (int64_t k = 0; k < h.cols; ++k) row[size_t(k)] = decoded[size_t(stored.columns ? stored.columns[k] : k)];
      const int64_t target = stored.order ? stored.order[first + i] : first + i;
      codes(b, i);
      numbers(b, from, i, target);
    }
  }

  void codes(const Bucket& b, int64_t i) {
    const int panel_rows = ROW_BLOCKS * h.lanes;
    const Planes planes = planes_of(b.bits, h.split8);
    uint8_t* panel = out + b.data + i / panel_rows * b.panel_nbytes;
    for (int64_t s = 0, k = 0; s < h.segments; ++s) {
      for (int p = 0; p < planes.count; ++p) {
        for (int64_t j = 0; j < segment_length(h, s); ++j) {
          put(panel, planes.plane[p], h.lanes, j, int(i % panel_rows), row[size_t(k + j)]);
        }
        panel += plane_nbytes(planes.plane[p].bits, h.padded_segment, h.lanes);
      }
      k += segment_length(h, s);
    }
  }

  void numbers(const Bucket& b, const StoredBlock& from, int64_t i, int64_t target) {
    const int64_t panel_rows = ROW_BLOCKS * h.lanes, scales = stored.group ? h.segments : 1;
    for (int64_t s = 0, k = 0; s < h.segments; ++s) {
      const int64_t from_scale = (stored.scale_rows ? target * scales : 0) + (stored.group ? s : 0);
      const int zero = stored.zero_point ? stored.zero_point[from_scale] : 0;
      const int64_t place_of = (i / panel_rows * h.segments + s) * panel_rows + i % panel_rows;
      int64_t total = 0;
      for (int64_t j = 0; j < segment_length(h, s); ++j) total += row[size_t(k++)];
      place<int32_t>(out, b.offset)[place_of] = from.offset - zero;
      place<int32_t>(out, b.sum)[place_of] = int32_t(total);
      place<float>(out, b.scale)[place_of] = stored.scale[from_scale];
    }
    place<float>(out, b.bias)[i] = stored.bias ? stored.bias[target] : -0.0f;
    place<int32_t>(out, b.order)[i] = int32_t(target);
  }
};

void plan_bucket(const Stored& stored, const Kernels& kernels, const StoredBlock& from, Header& h, Bucket& b) {
  const int64_t panel_rows = ROW_BLOCKS * kernels.lanes;
  b.bits = from.bits;
  b.rows = int32_t(from.rows);
  b.panels = int32_t(round_up(from.rows, panel_rows) / panel_rows);
  b.first_row = stored.order ? -1 : int32_t(h.rows);
  b.uniform = stored.zero_point == nullptr;
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

Header plan(const Stored& stored, const Kernels& kernels) {
  if (stored.blocks.empty() || stored.blocks.size() > MAX_BUCKETS) throw std::invalid_argument("1 to 8 widths");
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
  h.step = stored.step;
  h.grouped = stored.group > 0;
  h.wide = !h.grouped && (stored.wide || h.segments > 1);
  h.buckets = int32_t(stored.blocks.size());
  h.relu = stored.relu;
  h.activation = stored.activation;
  for (int i = 0; i < h.buckets; ++i) plan_bucket(stored, kernels, stored.blocks[size_t(i)], h, h.bucket[i]);
  return h;
}

void fill(const Stored& stored, const Header& header, uint8_t* out) {
  std::memset(out, 0, size_t(header.nbytes));
  std::memcpy(out, &header, sizeof header);
  Filler filler{stored, header, out, {}, {}};
  filler.decoded.resize(size_t(header.cols) + 8);
  filler.row.resize(size_t(header.cols) + 8);
  int64_t first = 0;
  for (int i = 0; i < header.buckets; ++i) {
    filler.bucket(i, first);
    first += header.bucket[i].rows;
  }
}

}  // namespace qcore
