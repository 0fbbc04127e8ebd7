#include "check.hpp"

#include <vector>

#include "depthwise.hpp"

namespace qcore {
namespace {

constexpr int64_t MOST = int64_t(1) << 31;  // rows or columns: products of two fit 64 bits

bool within(int64_t start, int64_t size, int64_t nbytes) {
  return start >= int64_t(sizeof(Header)) && start % 4 == 0 && size >= 0 && start <= nbytes && size <= nbytes - start;
}

bool is_bucket(const Header& h, const Bucket& b) {
  const int64_t panel_rows = ROW_BLOCKS * h.lanes;
  if (b.bits < 1 || b.bits > 8 || b.rows < 0 || b.panels != round_up(b.rows, panel_rows) / panel_rows) return false;
  if (b.first_row < -1 || b.first_row > h.rows - b.rows) return false;
  if (b.nibbles != 0 && (b.nibbles != 1 || b.bits > 2 || h.activation.input != Input::real)) return false;
  if (b.panel_nbytes != h.segments * plane_nbytes(b.bits, h.padded_segment, h.lanes)) return false;
  const int64_t padded = b.panels * panel_rows, numbers = h.segments * padded * 4;
  if (!within(b.data, b.panels * b.panel_nbytes, h.nbytes) || !within(b.offset, numbers, h.nbytes) ||
      !within(b.sum, numbers, h.nbytes) || !within(b.scale, numbers, h.nbytes) ||
      !within(b.bias, padded * 4, h.nbytes) || !within(b.order, padded * 4, h.nbytes)) {
    return false;
  }
  return true;
}

// Whether the codes of all columns are those of their grid: qcore.tensor.columns.
bool are_columns(const uint8_t* block, const Header& h) {
  if ((h.activation.bits != 8 && h.activation.bits != 16) || h.grouped > (h.activation.bits == 8)) return false;
  if (!within(h.columns, 3 * h.cols * int64_t(sizeof(float)), h.nbytes)) return false;
  const bool wide = h.activation.bits == 16;
  const float top = h.activation.symmetric ? (wide ? 32760.0f : 126.0f) : (wide ? 65535.0f : 255.0f);
  const float *largest = at<float>(block, h.columns) + h.cols, *step = largest + h.cols;
  for (int64_t i = 0; i < h.cols; ++i) {
    if (!(largest[i] >= 0 && step[i] >= 1 && largest[i] * step[i] <= top)) return false;
  }
  return true;
}

bool is_depthwise(const Header& h) {
  const int64_t padded = depthwise_padded(h);
  const Bucket& b = h.bucket[0];
  return h.rows > 0 && h.cols > 0 && h.buckets == 1 && h.segments == 1 && !h.wide && !h.grouped && b.rows == h.rows &&
         within(b.data, depthwise_pairs(h) * padded * 4, h.nbytes) && within(b.sum, padded * 4, h.nbytes) &&
         within(b.scale, padded * 4, h.nbytes) && within(b.bias, padded * 4, h.nbytes);
}

// Whether the buckets give each row of the output once.
bool covers(const uint8_t* block, const Header& h) {
  std::vector<bool> given(size_t(h.rows), false);
  int64_t count = 0;
  for (int bucket = 0; bucket < h.buckets; ++bucket) {
    const Bucket& b = h.bucket[bucket];
    const int32_t* order = at<int32_t>(block, b.order);
    for (int64_t i = 0; i < b.rows; ++i, ++count) {
      if (order[i] < 0 || order[i] >= h.rows || given[size_t(order[i])]) return false;
      if (b.first_row >= 0 && order[i] != b.first_row + i) return false;
      given[size_t(order[i])] = true;
    }
  }
  return count == h.rows;
}

}  // namespace

bool is_block(const uint8_t* block, int64_t nbytes) {
  if (nbytes < int64_t(sizeof(Header))) return false;
  const Header& h = header_of(block);
  if (h.magic != MAGIC || h.nbytes != nbytes || (h.lanes != 8 && h.lanes != 16)) return false;
  if (h.split8 != 0 && h.split8 != 1) return false;
  if (h.rows < 0 || h.rows >= MOST || h.cols < 0 || h.cols >= MOST || h.buckets < 1 || h.buckets > MAX_BUCKETS) {
    return false;
  }
  if (h.segment < 0 || h.segment > LONGEST_SEGMENT || h.padded_segment != round_up(h.segment, 8)) return false;
  if (h.segments != (h.segment ? (h.cols + h.segment - 1) / h.segment : 1) || (h.segment == 0 && h.cols)) return false;
  const bool columned = h.activation.input == Input::columns;
  if (columned ? !are_columns(block, h) : h.activation.bits < 1 || h.activation.bits > 8) return false;
  if (h.depthwise) return !columned && is_depthwise(h);
  for (int i = 0; i < h.buckets; ++i) {
    if (!is_bucket(h, h.bucket[i])) return false;
  }
  return covers(block, h);
}

}  // namespace qcore
