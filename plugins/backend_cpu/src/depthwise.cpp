#include "depthwise.hpp"

#include <cstring>
#include <stdexcept>
#include <vector>

#include "prepare.hpp"

namespace qcore {
namespace {

template <class T>
T* place(uint8_t* block, int64_t offset) {
  return reinterpret_cast<T*>(block + offset);
}

// One channel's numbers, where the layout has them.
void put_channel(const Stored& stored, const Header& h, const int32_t* taps, int64_t channel, uint8_t* out) {
  const Bucket& b = h.bucket[0];
  const int64_t padded = depthwise_padded(h), group = 2 * h.lanes;
  int64_t at = channel / group * group;
  while (channel_at(int(at % group), h.lanes) != channel % group) ++at;
  int32_t total = 0;
  for (int64_t k = 0; k < h.cols; ++k) {
    place<int16_t>(out, b.data)[(k / 2 * padded + at) * 2 + k % 2] = int16_t(taps[k]);
    total += taps[k];
  }
  place<int32_t>(out, b.sum)[channel] = total;
  place<float>(out, b.scale)[channel] = stored.scale[stored.scale_rows ? channel : 0];
  place<float>(out, b.bias)[channel] = stored.bias ? stored.bias[channel] : -0.0f;
}

}  // namespace

Header plan_depthwise(const Stored& stored, const Kernels& kernels) {
  if (stored.group || stored.wide || stored.columns) throw std::invalid_argument("a depthwise weight has one sum a channel");
  Header h{};
  h.magic = MAGIC;
  h.nbytes = round_up(sizeof(Header), ALIGNMENT);
  h.cols = h.segment = stored.cols;
  for (const StoredBlock& block : stored.blocks) h.rows += block.rows;
  h.segments = 1;
  h.padded_segment = round_up(h.segment, 8);
  h.lanes = kernels.lanes;
  h.split8 = kernels.split8;
  h.buckets = 1;
  h.depthwise = 1;
  h.activation = stored.activation;
  const int64_t padded = depthwise_padded(h);
  auto take = [&](int64_t nbytes) {
    const int64_t start = h.nbytes;
    h.nbytes = round_up(start + nbytes, ALIGNMENT);
    return start;
  };
  Bucket& b = h.bucket[0];
  b.rows = int32_t(h.rows);
  b.data = take(depthwise_pairs(h) * padded * 2 * int64_t(sizeof(int16_t)));
  b.sum = take(padded * 4);
  b.scale = take(padded * 4);
  b.bias = take(padded * 4);
  return h;
}

void fill_depthwise(const Stored& stored, const Header& header, uint8_t* out) {
  std::memset(out, 0, size_t(header.nbytes));
  std::memcpy(out, &header, sizeof header);
  std::vector<uint8_t> decoded(size_t(header.cols) + 8);
  std::vector<int32_t> taps(static_cast<size_t>(header.cols));
  int64_t at = 0;
  for (const StoredBlock& block : stored.blocks) {
    for (int64_t row = 0; row < block.rows; ++row, ++at) {
      const int64_t channel = stored.order ? stored.order[at] : at;
      const int zero = stored.zero_point ? stored.zero_point[stored.scale_rows ? channel : 0] : 0;
      decode_row(block, row, header.cols, decoded.data());
      for (size_t k = 0; k < taps.size(); ++k) taps[k] = block.step * decoded[k] + block.offset - zero;
      put_channel(stored, header, taps.data(), channel, out);
    }
  }
}

}  // namespace qcore
