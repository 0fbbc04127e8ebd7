// Sums in the order of qcore.tensor.sums: rows of 128 columns, added neighbour to neighbour, then halves of the last row.
#pragma once

#include <cstdint>
#include <cstring>

namespace qcore {
namespace {

constexpr int SUM_COLS = 128;

// A binary counter of rows: node k is the sum of 2**k neighbouring rows that still waits for its own neighbour.
class RowCounter {
 public:
  // Add a row that is the sum of 2**level rows, or of what is left of them at the end; it is lost.
  void push(double* row, int level) {
    for (; waiting_ >> level & 1; ++level) {
      add(level, row);
      waiting_ &= ~(uint64_t(1) << level);
    }
    std::memcpy(node_[level], row, SUM_COLS * sizeof(double));
    waiting_ |= uint64_t(1) << level;
  }

  // The sum of all rows, the last ones without a neighbour.
  void finish(double* row) {
    int level = 0;
    while (level < LEVELS && !(waiting_ >> level & 1)) ++level;
    if (level == LEVELS) return void(std::memset(row, 0, SUM_COLS * sizeof(double)));
    std::memcpy(row, node_[level], SUM_COLS * sizeof(double));
    for (++level; waiting_ >> level; ++level) {
      if (waiting_ >> level & 1) add(level, row);
    }
  }

 private:
  static constexpr int LEVELS = 48;

  void add(int level, double* row) const {
    for (int j = 0; j < SUM_COLS; ++j) row[j] = node_[level][j] + row[j];
  }

  uint64_t waiting_ = 0;
  double node_[LEVELS][SUM_COLS];
};

// The sum of one row; it is lost.
inline double fold(double* row) {
  for (int half = SUM_COLS / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) row[j] = row[j] + row[j + half];
  }
  return row[0];
}

// Node::sum<MAGNITUDE, LEVEL>(x, sum) makes the sum of 2**LEVEL rows of 128 floats.
template <class Node, bool MAGNITUDE, int LEVEL>
inline int64_t sum_nodes(const float* x, int64_t i, int64_t n, RowCounter& rows) {
  for (; i + (SUM_COLS << LEVEL) <= n; i += SUM_COLS << LEVEL) {
    double sum[SUM_COLS];
    Node::template sum<MAGNITUDE, LEVEL>(x + i, sum);
    rows.push(sum, LEVEL);
  }
  return i;
}

// row (128,) = the sum of the rows of x.
template <class Node, bool MAGNITUDE>
inline void sum_rows(const float* x, int64_t n, double* row) {
  RowCounter rows;
  int64_t i = sum_nodes<Node, MAGNITUDE, 4>(x, 0, n, rows);
  i = sum_nodes<Node, MAGNITUDE, 2>(x, i, n, rows);
  i = sum_nodes<Node, MAGNITUDE, 0>(x, i, n, rows);
  if (i < n) {
    float last[SUM_COLS] = {};
    std::memcpy(last, x + i, size_t(n - i) * sizeof(float));
    sum_nodes<Node, MAGNITUDE, 0>(last, 0, SUM_COLS, rows);
  }
  rows.finish(row);
}

}  // namespace
}  // namespace qcore
