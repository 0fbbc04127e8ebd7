// A mixture's rows, grouped by expert: each expert runs once, on its own rows, and its outputs go back with their
// weights.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "layout.hpp"

namespace qcore {

// The rows of each expert, in order: a counting sort of the weights (rows, experts) that are not 0; NaN is not.
struct Groups {
  std::vector<int32_t> start;  // (experts + 1,)
  int32_t* row;                // (start.back(),)

  // `row` has room for rows * experts numbers.
  Groups(const float* weights, int64_t rows, int64_t experts, int32_t* row) : start(size_t(experts) + 1), row(row) {
    for (int64_t i = 0; i < rows * experts; ++i) start[size_t(i % experts) + 1] += weights[i] != 0;
    for (int64_t e = 0; e < experts; ++e) start[size_t(e) + 1] += start[size_t(e)];
    std::vector<int32_t> next(start.begin(), start.end() - 1);
    for (int64_t i = 0; i < rows * experts; ++i) {
      if (weights[i] != 0) row[next[size_t(i % experts)]++] = int32_t(i / experts);
    }
  }
};

// Bytes of memory that grouped() needs for one row; all of its parts keep the alignment.
inline int64_t grouped_nbytes(int64_t experts, int64_t features, int64_t outputs) {
  return round_up(4 * experts, ALIGNMENT) + round_up(4 * features, ALIGNMENT) + round_up(4 * outputs, ALIGNMENT);
}

// y (rows, outputs) = sum_e weights[:, e] * f_e(x), where run(e, x, n, y) computes f_e for n rows.
template <class F>
void grouped(const float* weights, int64_t rows, int64_t experts, const float* x, int64_t features, float* y,
             int64_t outputs, char* memory, const F& run) {
  int32_t* order = reinterpret_cast<int32_t*>(memory);
  float* gathered = reinterpret_cast<float*>(memory + rows * round_up(4 * experts, ALIGNMENT));
  float* part = reinterpret_cast<float*>(reinterpret_cast<char*>(gathered) + rows * round_up(4 * features, ALIGNMENT));
  const Groups groups(weights, rows, experts, order);
  std::memset(y, 0, sizeof(float) * size_t(rows * outputs));
  for (int64_t e = 0; e < experts; ++e) {
    const int32_t* mine = order + groups.start[size_t(e)];
    const int64_t n = groups.start[size_t(e) + 1] - groups.start[size_t(e)];
    if (n == 0) continue;
    const float* from = x;
    if (n < rows) {  // else they are all there, in their order
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(gathered + i * features, x + mine[i] * features, sizeof(float) * size_t(features));
      }
      from = gathered;
    }
    run(e, from, n, part);
    for (int64_t i = 0; i < n; ++i) {
      const float weight = weights[mine[i] * experts + e];
      float* to = y + mine[i] * outputs;
      for (int64_t j = 0; j < outputs; ++j) to[j] += part[i * outputs + j] * weight;
    }
  }
}

// One packed linear layer an expert, of one shape: y (rows, outputs) from x (rows, features).
void run_moe_linear(const std::vector<const uint8_t*>& blocks, const float* weights, const float* x, int64_t rows,
                    float* y, int threads);

}  // namespace qcore
