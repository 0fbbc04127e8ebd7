#include "plan_layers.hpp"

#include <limits>

#include "machine.hpp"
#include "pool.hpp"

namespace qcore {
namespace {

constexpr int64_t WORTH_A_THREAD = 1 << 20;  // multiplications below which a woken thread comes too late to help
constexpr int64_t ROWS_A_TASK = 24;          // whole register tiles, whatever their height

float larger(float a, float b) { return a > b || a != a ? a : b; }

}  // namespace

void Finish::apply(const FloatKernels& floats, const Shape& shape, const float* x, int64_t rows, float* y) const {
  normalize(floats, shape, x, rows, y);
  if (limit < INFINITY) floats.limit(y, rows * shape.size(), limit, y);
}

void Finish::normalize(const FloatKernels& floats, const Shape& shape, const float* x, int64_t rows, float* y) const {
  const int64_t channels = shape.first(), size = shape.size(), inner = channels ? size / channels : 0;
  if (!multiplier) {
    if (relu) floats.relu(x, rows * size, y);
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    if (inner == 1) {
      floats.batch_norm_each(x + i * size, size, multiplier, offset, relu, y + i * size);
      continue;
    }
    for (int64_t c = 0; c < channels; ++c) {
      const int64_t at = i * size + c * inner;
      floats.batch_norm(x + at, inner, multiplier[c], offset[c], relu, y + at);
    }
  }
}

Geometry between(const Geometry& walk, const Shape& from, const Shape& to) {
  Geometry g = walk;
  g.channels = from.dim[0], g.height = from.dim[1], g.width = from.dim[2];
  g.out_channels = to.dim[0], g.out_height = to.dim[1], g.out_width = to.dim[2];
  return g;
}

void PackedLinearStep::run(const Frame& f) const {
  const Header& h = header_of(block);
  float* y = codes.given ? reinterpret_cast<float*>(f.workspace) : out<float>(f);
  const int64_t rows = h.rows ? f.rows * (out_shape(f).size() / h.rows) : 0;
  const Source from = codes.takes_codes ? Source{nullptr, nullptr, {codes_in(f), nan_in(f)}} : Source{in<float>(f)};
  run_linear(machine_for(h), block, from, rows, y, f.threads);
  finish.apply(floats, out_shape(f), y, f.rows, y);
  if (!codes.given) return;
  const Machine& machine = machine_for(h);
  const Coder coder = fixed_coder(*codes.given);
  for (int64_t i = 0; i < rows; ++i) {
    bool nan = false;
    encode(machine, coder, y + i * h.rows, h.rows, codes_out(f) + i * h.rows, &nan);
    nan_out(f)[i] = nan;
  }
}

int64_t PackedLinearStep::workspace(const Placement& p, size_t) const {
  return codes.given ? round_up(int64_t(sizeof(float)) * p.shape(output).size(), ALIGNMENT) : 0;
}

void PackedConvolutionStep::run(const Frame& f) const {
  const Shape& to = out_shape(f);
  const Geometry g = between(walk, in_shape(f), to);
  const Machine& machine = machine_for(header_of(blocks[0]));
  const Source from = codes.takes_codes ? Source{nullptr, nullptr, {codes_in(f), nan_in(f)}} : Source{in<float>(f)};
  if (over) {
    run_convolution(machine, blocks, g, from, f.rows, Target{nullptr, &*over, codes_out(f), nan_out(f)}, f.threads);
    return;
  }
  float* y = out<float>(f);
  run_convolution(machine, blocks, g, from, f.rows, Target{y}, f.threads);
  finish.apply(floats, to, y, f.rows, y);
}

void LinearStep::run(const Frame& f) const {
  const int64_t rows = f.rows * (weight.outputs ? out_shape(f).size() / weight.outputs : 0), panels = weight.count();
  const int64_t pieces = (rows + ROWS_A_TASK - 1) / ROWS_A_TASK;
  const int use = rows * weight.features * weight.outputs < WORTH_A_THREAD ? 1 : f.threads;
  parallel_for(use, panels * pieces, [&](int64_t i) {
    const int64_t panel = i / pieces, first = i % pieces * ROWS_A_TASK, left = rows - first;
    const int64_t n = left < ROWS_A_TASK ? left : ROWS_A_TASK, from = first * weight.features;
    const int64_t to = first * weight.outputs;
    if (!wide) return floats.linear(weight, panel, in<float>(f) + from, n, relu, out<float>(f) + to);
    if (wide_input) return floats.wide_linear(weight, panel, in<double>(f) + from, n, relu, out<double>(f) + to);
    floats.widening_linear(weight, panel, in<float>(f) + from, n, relu, out<double>(f) + to);
  });
}

void LayerNormStep::run(const Frame& f) const {
  const int64_t n = in_shape(f).last(), rows = f.rows * (n ? in_shape(f).size() / n : 0);
  const float* x = in<float>(f);
  float* y = out<float>(f);
  for (int64_t i = 0; i < rows; ++i) floats.layer_norm(x + i * n, n, weight, bias, eps, relu, y + i * n);
}

void BatchNormStep::run(const Frame& f) const {
  finish.apply(floats, in_shape(f), in<float>(f), f.rows, out<float>(f));
}

void StandardizeStep::run(const Frame& f) const {
  const int64_t size = in_shape(f).size(), features = in_shape(f).first(), inner = features ? size / features : 0;
  const float* x = in<float>(f);
  float* y = out<float>(f);
  for (int64_t i = 0; i < f.rows; ++i, x += size, y += size) {
    if (inner == 1) {
      floats.standardize_each(x, size, mean, std, y);
      continue;
    }
    for (int64_t c = 0; c < features; ++c) floats.standardize(x + c * inner, inner, mean[c], std[c], y + c * inner);
  }
}

void RescaleStep::run(const Frame& f) const {
  const int64_t n = f.rows * in_shape(f).size();
  const float* x = in<float>(f);
  float* y = out<float>(f);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * std + mean;
}

void ReluStep::run(const Frame& f) const {
  const int64_t n = f.rows * in_shape(f).size();
  if (!wide) return floats.relu(in<float>(f), n, out<float>(f));
  const double* x = in<double>(f);
  double* y = out<double>(f);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] < 0 ? 0.0 : x[i];
}

void LimitStep::run(const Frame& f) const {
  floats.limit(in<float>(f), f.rows * in_shape(f).size(), top, out<float>(f));
}

void AddStep::run(const Frame& f) const {
  floats.add(in<float>(f), in<float>(f, 1), f.rows * out_shape(f).size(), relu, out<float>(f));
}

void MaxPoolStep::run(const Frame& f) const {
  const Shape &from = in_shape(f), &to = out_shape(f);
  const int64_t height = from.dim[1], width = from.dim[2], high = to.dim[1], wide = to.dim[2];
  const int64_t planes = f.rows * from.dim[0];
  const bool halves = window == std::vector<int64_t>{2, 2, 2, 2, 0, 0, 1, 1} && 2 * high <= height && 2 * wide <= width;
  for (int64_t p = 0; p < planes; ++p) {
    const float* x = in<float>(f) + p * height * width;
    float* y = out<float>(f) + p * high * wide;
    for (int64_t i = 0; i < high; ++i, y += wide) {
      if (halves) {
        floats.pool_pairs(x + 2 * i * width, x + (2 * i + 1) * width, wide, y);
        continue;
      }
      for (int64_t j = 0; j < wide; ++j) {
        float best = -std::numeric_limits<float>::infinity();
        for (int64_t a = 0; a < window[0]; ++a) {
          const int64_t row = i * window[2] - window[4] + a * window[6];
          if (row < 0 || row >= height) continue;
          for (int64_t b = 0; b < window[1]; ++b) {
            const int64_t column = j * window[3] - window[5] + b * window[7];
            if (column >= 0 && column < width) best = larger(x[row * width + column], best);
          }
        }
        y[j] = best;
      }
    }
  }
}

void SpatialMeanStep::run(const Frame& f) const {
  const Shape& from = in_shape(f);
  const int64_t area = from.dim[1] * from.dim[2], planes = f.rows * from.dim[0];
  const float* x = in<float>(f);
  float* y = out<float>(f);
  for (int64_t p = 0; p < planes; ++p, x += area) {
    double sum[4] = {};
    int64_t i = 0;
    for (; i + 4 <= area; i += 4) {
      for (int j = 0; j < 4; ++j) sum[j] += double(x[i + j]);
    }
    for (; i < area; ++i) sum[0] += double(x[i]);
    y[p] = float(((sum[0] + sum[1]) + (sum[2] + sum[3])) / double(area));
  }
}

}  // namespace qcore
