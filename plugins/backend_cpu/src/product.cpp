#include "product.hpp"

#include <cstring>

#include "memory.hpp"
#include "panel_parts.hpp"

namespace qcore {
namespace {

constexpr int MOST_PANEL_ROWS = ROW_BLOCKS * 16;
constexpr int UNPACKED_NBYTES = 16384;  // half of the smallest L1
constexpr int FEW = 24;                 // rows of floats for which no tile of floats is made
constexpr int CHUNK = 96;               // rows of activations whose sums are held at once
constexpr int WIDE_CHUNK = 15;          // the same for sums of 64 bits: 30 rows of bytes are whole register tiles

struct Panel {
  const Machine& machine;
  const Header& h;
  const Bucket& b;
  const uint8_t* data;   // of this panel
  int64_t first;         // row of the bucket
  int rows;              // that exist

  int64_t plane_start(int plane) const {
    const Planes planes = planes_of(b.bits, h.split8);
    int64_t start = 0;
    for (int i = 0; i < plane; ++i) start += plane_nbytes(planes.plane[i].bits, h.padded_segment, h.lanes);
    return start;
  }

  // Where the offsets, sums and scales of segment s start.
  int64_t numbers_of(int64_t s) const { return first * h.segments + s * ROW_BLOCKS * h.lanes; }

  const uint8_t* segment(int64_t s) const { return data + s * (b.panel_nbytes / h.segments); }

  // sums (rows, PANEL) = codes of segment s . x
  void sums(int64_t s, const Codes& x, int64_t m, int count, int32_t* sums) const {
    if (machine.kernels->product && count > machine.kernels->gemv_limit) return raw_sums(s, x, m, count, sums);
    const int panel_rows = ROW_BLOCKS * h.lanes;
    std::memset(sums, 0, sizeof(int32_t) * size_t(count) * size_t(panel_rows));
    const int pairs = int(round_up(segment_length(h, s), 8) / 8);
    const int8_t* codes = x.codes + m * x.stride + s * h.padded_segment;
    if (count <= machine.kernels->gemv_limit) {
      const Planes planes = planes_of(b.bits, h.split8);
      for (int i = 0; i < count; ++i) {
        const uint8_t* w = segment(s);
        for (int p = 0; p < planes.count; ++p) {
          const Plane& plane = planes.plane[p];
          machine.kernels->gemv(plane.bits, w, codes + i * x.stride, pairs, plane.shift, sums + i * panel_rows);
          w += plane_nbytes(plane.bits, h.padded_segment, h.lanes);
        }
      }
      return;
    }
    const Parts parts = parts_of(b.bits);
    for (int p = 0; p < parts.count; ++p) product(parts.part[p], segment(s), codes, x.stride, count, pairs, sums);
  }

  void raw_sums(int64_t s, const Codes& x, int64_t m, int count, int32_t* sums) const {
    Product p{};
    p.planes = planes_of(b.bits, h.split8);
    p.plane = segment(s);
    if (p.planes.count > 1) {
      p.plane = unpacked() + s * plane_nbytes(8, h.padded_segment, h.lanes);
      p.planes = planes_of(8, false);
    }
    p.segments = p.pieces = 1;
    p.pairs = p.last_pairs = int(round_up(segment_length(h, s), 8) / 8);
    p.codes = x.codes + m * x.stride + s * h.padded_segment;
    p.codes_stride = x.stride;
    p.raw = sums;
    machine.kernels->product(p, count);
  }

  void product(const Part& part, const uint8_t* start, const int8_t* codes, int64_t stride, int count, int pairs,
               int32_t* sums) const {
    alignas(64) uint8_t unpacked[UNPACKED_NBYTES];
    const int panel_rows = ROW_BLOCKS * h.lanes, most = UNPACKED_NBYTES / (panel_rows * 8);
    for (int done = 0; done < pairs; done += most) {
      const int n = pairs - done < most ? pairs - done : most;
      const uint8_t* plane[MAX_PLANES];
      for (int i = 0; i < part.planes.count; ++i) {
        const int bits = part.planes.plane[i].bits;
        plane[i] = start + plane_start(part.first + i) + plane_nbytes(bits, int64_t(done) * 8, h.lanes);
      }
      machine.kernels->unpack(part.planes, plane, n, unpacked);
      machine.kernels->gemm(unpacked, part.bits, part.shift, n, codes + int64_t(done) * 8, stride, count, sums,
                            panel_rows);
    }
  }

  void scaled(int64_t s, const int32_t* sums, const Token& token, int32_t total, bool add, float* y) const {
    const uint8_t* block = reinterpret_cast<const uint8_t*>(&h);
    const int64_t at_row = numbers_of(s);
    machine.rows->scale(sums, rows, b.step * token.step, at<int32_t>(block, b.offset) + at_row, total,
                        b.step * token.shift, at<int32_t>(block, b.sum) + at_row, token.scale,
                        at<float>(block, b.scale) + at_row, add, y);
  }

  // Outputs straight from the registers; widths of several planes are unpacked to bytes first.
  void run_product(const Codes& x, const Output& out) const {
    alignas(64) float held[CHUNK * MOST_PANEL_ROWS];
    const uint8_t* block = reinterpret_cast<const uint8_t*>(&h);
    Product p{};
    p.plane = data;
    p.segment_nbytes = b.panel_nbytes / h.segments;
    p.planes = planes_of(b.bits, h.split8);
    p.segments = int(h.segments);
    p.pairs = int(h.padded_segment / 8);
    p.last_pairs = int(round_up(segment_length(h, h.segments - 1), 8) / 8);
    p.codes_stride = x.stride;
    p.codes_segment = h.padded_segment;
    p.pieces = int(x.pieces);
    p.piece_gap = x.pieces > 1 ? x.piece_stride - h.cols / x.pieces : 0;
    p.step = b.step;
    p.offset = at<int32_t>(block, b.offset) + numbers_of(0);
    p.sum = at<int32_t>(block, b.sum) + numbers_of(0);
    p.scale = at<float>(block, b.scale) + numbers_of(0);
    p.bias = at<float>(block, b.bias) + first;
    p.relu = h.relu;
    p.valid = rows;
    if (p.planes.count > 1 && (x.rows > 1 || x.pieces > 1)) {
      p.plane = unpacked();
      p.segment_nbytes = plane_nbytes(8, h.padded_segment, h.lanes);
      p.planes = planes_of(8, false);
    }
    const int32_t* corrections = x.plain && b.step == 1 && b.uniform ? corrected(x, p.offset[0]) : nullptr;
    const int64_t most = direct(out) ? x.rows : CHUNK;
    for (int64_t m = 0; m < x.rows; m += most) {
      const int count = int(x.rows - m < most ? x.rows - m : most);
      p.codes = x.codes + m * x.stride;
      p.tokens = x.tokens + m;
      p.totals = x.totals + m * h.segments;
      if (corrections) p.corrections = corrections + m * h.segments;
      p.y = direct(out) ? target(out, m) : held;
      p.y_stride = direct(out) ? out.row_stride : ROW_BLOCKS * h.lanes;
      machine.kernels->product(p, count);
      if (!direct(out)) place(held, p.y_stride, count, out, m);
    }
  }

  const int32_t* corrected(const Codes& x, int32_t offset) const {
    const int64_t n = x.rows * h.segments;
    int32_t* to = reinterpret_cast<int32_t*>(scratch<Purpose::corrections>(n * int64_t(sizeof(int32_t))));
    for (int64_t i = 0; i < n; ++i) to[i] = int32_t(uint32_t(offset) * uint32_t(x.totals[i]));
    return to;
  }

  // The panel with its planes together, one byte a code; this thread's until its next panel.
  const uint8_t* unpacked() const {
    const Planes planes = planes_of(b.bits, h.split8);
    const int64_t nbytes = plane_nbytes(8, h.padded_segment, h.lanes);
    uint8_t* to = reinterpret_cast<uint8_t*>(scratch<Purpose::panel>(nbytes * h.segments));
    for (int64_t s = 0; s < h.segments; ++s) {
      const uint8_t* plane[MAX_PLANES];
      for (int i = 0; i < planes.count; ++i) plane[i] = segment(s) + plane_start(i);
      machine.kernels->unpack(planes, plane, int(round_up(segment_length(h, s), 8) / 8), to + s * nbytes);
    }
    return to;
  }

  // Finish `count` rows of sums that lie `stride` apart, and bring them where they belong, unless they are there.
  void store(float* y, int64_t stride, int count, const Output& out, int64_t m) const {
    const uint8_t* block = reinterpret_cast<const uint8_t*>(&h);
    for (int i = 0; i < count; ++i) {
      machine.rows->finish(y + i * stride, rows, at<float>(block, b.bias) + first, h.relu);
    }
    if (!direct(out)) place(y, stride, count, out, m);
  }

  // Bring finished outputs where they belong.
  void place(float* y, int64_t stride, int count, const Output& out, int64_t m) const {
    const uint8_t* block = reinterpret_cast<const uint8_t*>(&h);
    if (b.first_row >= 0 && out.row_stride == 1) {
      float* to = out.y + (b.first_row + first) * out.column_stride + m;
      return machine.rows->transpose(y, stride, count, rows, to, out.column_stride);
    }
    const int32_t* order = at<int32_t>(block, b.order) + first;
    for (int i = 0; i < count; ++i) {
      float* to = out.y + (m + i) * out.row_stride;
      if (out.column_stride == 1) scatter(y + i * stride, order, rows, to);
      else for (int r = 0; r < rows; ++r) to[order[r] * out.column_stride] = y[i * stride + r];
    }
  }

  bool direct(const Output& out) const { return b.first_row >= 0 && out.column_stride == 1; }

  // Integer sums of 64 bits over all segments, of codes of one byte or two.
  void run_wide(const Codes& x, const Output& out, int64_t m, int count) const {
    alignas(64) int32_t part[2 * WIDE_CHUNK * MOST_PANEL_ROWS];
    int64_t acc[WIDE_CHUNK * MOST_PANEL_ROWS] = {};
    alignas(64) float y[WIDE_CHUNK * MOST_PANEL_ROWS];
    const uint8_t* block = reinterpret_cast<const uint8_t*>(&h);
    const int panel_rows = ROW_BLOCKS * h.lanes, parts = code_rows(h);
    for (int64_t s = 0; s < h.segments; ++s) {
      sums(s, x, m * parts, count * parts, part);
      const int64_t at_row = numbers_of(s);
      const int32_t *offset = at<int32_t>(block, b.offset) + at_row, *sum = at<int32_t>(block, b.sum) + at_row;
      for (int i = 0; i < count * parts; ++i) {
        const Token& token = x.tokens[m * parts + i];
        const int64_t total = x.totals[(m * parts + i) * h.segments + s];
        const int64_t unit = parts == 2 && i % 2 == 0 ? 256 : 1;  // the high bytes come first
        const int64_t step = unit * b.step * token.step, shift = unit * b.step * token.shift;
        const int32_t* from = part + i * panel_rows;
        int64_t* to = acc + i / parts * panel_rows;
        for (int r = 0; r < rows; ++r) to[r] += step * from[r] + unit * total * offset[r] + shift * sum[r];
      }
    }
    const float* scale = at<float>(block, b.scale) + numbers_of(0);
    for (int i = 0; i < count; ++i) {
      const float x_scale = x.tokens[(m + i) * parts].scale;
      for (int r = 0; r < rows; ++r) {
        const float factor = x_scale * scale[r];
        y[i * panel_rows + r] = float(acc[i * panel_rows + r]) * factor;
      }
    }
    store(y, panel_rows, count, out, m);
    if (!direct(out)) return;
    for (int i = 0; i < count; ++i) {
      std::memcpy(target(out, m + i), y + i * panel_rows, sizeof(float) * size_t(rows));
    }
  }

  float* target(const Output& out, int64_t m) const { return out.y + m * out.row_stride + b.first_row + first; }

  void run_chunk(const Codes& x, const Output& out, int64_t m, int count) const {
    alignas(64) int32_t part[CHUNK * MOST_PANEL_ROWS];
    alignas(64) float held[CHUNK * MOST_PANEL_ROWS];
    const int panel_rows = ROW_BLOCKS * h.lanes;
    float* y = direct(out) ? target(out, m) : held;
    const int64_t stride = direct(out) ? out.row_stride : panel_rows;
    for (int64_t s = 0; s < h.segments; ++s) {
      sums(s, x, m, count, part);
      for (int i = 0; i < count; ++i) {
        scaled(s, part + i * panel_rows, x.tokens[m + i], x.totals[(m + i) * h.segments + s], s > 0, y + i * stride);
      }
    }
    store(y, stride, count, out, m);
  }

  // sums (count, panel rows) += codes of segment s . x, in floats.
  void real_sums(int64_t s, const Reals& x, int64_t m, int count, float* sums) const {
    constexpr int PAIRS = 8;
    alignas(64) uint8_t unpacked[PAIRS * 8 * MOST_PANEL_ROWS];
    alignas(64) float tile[PAIRS * 8 * MOST_PANEL_ROWS];
    const uint8_t* block = reinterpret_cast<const uint8_t*>(&h);
    const int32_t* offset = at<int32_t>(block, b.offset) + numbers_of(s);
    const Planes planes = planes_of(b.bits, h.split8);
    const int64_t length = segment_length(h, s);
    for (int64_t k = 0; k < length; k += PAIRS * 8) {
      const int n = int(length - k < PAIRS * 8 ? length - k : PAIRS * 8), pairs = (n + 7) / 8;
      const uint8_t* plane[MAX_PLANES];
      for (int i = 0; i < planes.count; ++i) {
        plane[i] = segment(s) + plane_start(i) + plane_nbytes(planes.plane[i].bits, k, h.lanes);
      }
      if (b.nibbles) unpack_nibbles(plane[0], b.bits, h.lanes, pairs, unpacked);
      else machine.kernels->unpack(planes, plane, pairs, unpacked);
      machine.rows->widen(unpacked, 2 * pairs, h.lanes, b.step, offset, tile);
      machine.rows->real_gemm(tile, n, ROW_BLOCKS * h.lanes, x.x + m * x.stride + s * h.segment + k, x.stride, count,
                              sums);
    }
  }

  void run_reals(const Reals& x, const Output& out, int64_t m, int count) const {
    alignas(64) float part[CHUNK * MOST_PANEL_ROWS];
    alignas(64) float held[CHUNK * MOST_PANEL_ROWS];
    const int panel_rows = ROW_BLOCKS * h.lanes;
    float* y = direct(out) ? target(out, m) : held;
    const int64_t stride = direct(out) ? out.row_stride : panel_rows;
    const uint8_t* block = reinterpret_cast<const uint8_t*>(&h);
    for (int64_t s = 0; s < h.segments; ++s) {
      std::memset(part, 0, sizeof(float) * size_t(count) * size_t(panel_rows));
      real_sums(s, x, m, count, part);
      const float* scale = at<float>(block, b.scale) + numbers_of(s);
      for (int i = 0; i < count; ++i) {
        machine.rows->real_scale(part + i * panel_rows, rows, scale, s > 0, y + i * stride);
      }
    }
    store(y, stride, count, out, m);
  }

  // Straight from the codes; without a tile of floats.
  void run_few(const Reals& x, const Output& out) const {
    alignas(64) float held[FEW * MOST_PANEL_ROWS];
    const uint8_t* block = reinterpret_cast<const uint8_t*>(&h);
    RealProduct p{};
    const bool together = planes_of(b.bits, h.split8).count == 1;
    p.plane = together ? data : unpacked();
    p.bits = together ? b.bits : 8;
    p.nibbles = b.nibbles;
    p.segment_nbytes = plane_nbytes(p.bits, h.padded_segment, h.lanes);
    p.segments = int(h.segments);
    p.segment = h.segment;
    p.last_segment = segment_length(h, h.segments - 1);
    p.stride = x.stride;
    p.step = b.step;
    p.offset = *at<int32_t>(block, b.offset);
    p.scale = at<float>(block, b.scale) + numbers_of(0);
    p.bias = at<float>(block, b.bias) + first;
    p.relu = h.relu;
    p.valid = rows;
    p.y_stride = direct(out) ? out.row_stride : ROW_BLOCKS * h.lanes;
    for (int64_t m = 0; m < x.rows; m += FEW) {
      const int count = int(x.rows - m < FEW ? x.rows - m : FEW);
      p.x = x.x + m * x.stride;
      p.y = direct(out) ? target(out, m) : held;
      machine.kernels->real_product(p, count);
      if (!direct(out)) place(held, p.y_stride, count, out, m);
    }
  }

  void run(const Reals& x, const Output& out) const {
    const bool few = x.rows <= FEW || 2 * rows <= ROW_BLOCKS * h.lanes || b.nibbles;
    if (machine.kernels->real_product && b.uniform && few) return run_few(x, out);
    for (int64_t m = 0; m < x.rows; m += CHUNK) {
      run_reals(x, out, m, int(x.rows - m < CHUNK ? x.rows - m : CHUNK));
    }
  }

  void run(const Codes& x, const Output& out) const {
    if (h.wide || code_rows(h) > 1) {
      const int64_t count = x.rows / code_rows(h);
      for (int64_t m = 0; m < count; m += WIDE_CHUNK) {
        run_wide(x, out, m, int(count - m < WIDE_CHUNK ? count - m : WIDE_CHUNK));
      }
      return;
    }
    if (machine.kernels->product) return run_product(x, out);
    // Chunks of equal size, in whole register tiles.
    const int64_t chunks = (x.rows + CHUNK - 1) / CHUNK;
    const int64_t size = round_up((x.rows + chunks - 1) / chunks, machine.kernels->gemm_rows);
    const int64_t most = size < CHUNK ? size : CHUNK;
    for (int64_t m = 0; m < x.rows; m += most) run_chunk(x, out, m, int(x.rows - m < most ? x.rows - m : most));
  }
};

}  // namespace

int64_t panels_of(const Header& h) {
  int64_t panels = 0;
  for (int i = 0; i < h.buckets; ++i) panels += h.bucket[i].panels;
  return panels;
}

int64_t codes_stride(const Header& h) {
  const int64_t stride = round_up(h.segments * h.padded_segment, 64);
  return stride % 1024 ? stride : stride + 64;
}

namespace {

template <class Rows>
void run_any(const Machine& machine, const uint8_t* block, int64_t index, const Rows& x, const Output& out) {
  const Header& h = header_of(block);
  int i = 0;
  while (index >= h.bucket[i].panels) index -= h.bucket[i++].panels;
  const Bucket& b = h.bucket[i];
  const int panel_rows = ROW_BLOCKS * h.lanes;
  const int64_t first = index * panel_rows, left = b.rows - first;
  const Panel panel{machine, h, b, block + b.data + index * b.panel_nbytes, first,
                    int(left < panel_rows ? left : panel_rows)};
  panel.run(x, out);
}

}  // namespace

void run_panel(const Machine& machine, const uint8_t* block, int64_t index, const Codes& x, const Output& out) {
  run_any(machine, block, index, x, out);
}

void run_panel(const Machine& machine, const uint8_t* block, int64_t index, const Reals& x, const Output& out) {
  run_any(machine, block, index, x, out);
}

}  // namespace qcore
