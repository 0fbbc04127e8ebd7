#include "experts.hpp"

#include "linear.hpp"
#include "machine.hpp"
#include "memory.hpp"

namespace qcore {
namespace {

constexpr int64_t ROWS_AT_ONCE = 256;

}  // namespace

void run_moe_linear(const std::vector<const uint8_t*>& blocks, const float* weights, const float* x, int64_t rows,
                    float* y, int threads) {
  const Header& h = header_of(blocks[0]);
  const int64_t experts = int64_t(blocks.size()), most = rows < ROWS_AT_ONCE ? rows : ROWS_AT_ONCE;
  const auto memory = allocate<char>(most * grouped_nbytes(experts, h.cols, h.rows));
  for (int64_t m = 0; m < rows; m += most) {
    const int64_t n = rows - m < most ? rows - m : most;
    auto run = [&](int64_t e, const float* from, int64_t count, float* to) {
      const uint8_t* block = blocks[size_t(e)];
      run_linear(machine_for(header_of(block)), block, Source{from}, count, to, threads);
    };
    grouped(weights + m * experts, n, experts, x + m * h.cols, h.cols, y + m * h.rows, h.rows, memory.get(), run);
  }
}

}  // namespace qcore
