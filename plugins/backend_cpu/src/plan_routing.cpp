#include "plan_routing.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "experts.hpp"

namespace qcore {
namespace {

double entropy(const double* p, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum -= p[i] == 0 ? 0.0 : p[i] * std::log(p[i]);
  return sum;
}

double mean_of(const double* passes, int64_t count, int64_t width, int64_t at) {
  double sum = 0;
  for (int64_t m = 0; m < count; ++m) sum += passes[m * width + at];
  return sum / double(count);
}

double mutual_information(const double* passes, int64_t count, int64_t width) {
  double whole = 0, parts = 0;
  for (int64_t i = 0; i < width; ++i) {
    const double mean = mean_of(passes, count, width, i);
    whole += entropy(&mean, 1);
  }
  for (int64_t m = 0; m < count; ++m) parts += entropy(passes + m * width, width);
  const double spread = whole - parts / double(count);
  return spread < 0 ? 0.0 : spread;
}

double variance_of(const double* passes, int64_t count, int64_t width) {
  double total = 0;
  for (int64_t i = 0; i < width; ++i) {
    const double mean = mean_of(passes, count, width, i);
    double squares = 0;
    for (int64_t m = 0; m < count; ++m) {
      const double d = passes[m * width + i] - mean;
      squares += d * d;
    }
    total += squares / double(count);
  }
  return total;
}

}  // namespace

void MasksStep::run(const Frame& f) const {
  const Shape &from = in_shape(f), &to = out_shape(f);
  const int64_t passes = to.dim[0], width = to.dim[1], step = from.dim.size() == 1 ? 0 : width;
  const double* x = in<double>(f);
  double* y = out<double>(f);
  for (int64_t i = 0; i < f.rows; ++i, x += from.size()) {
    for (int64_t m = 0; m < passes; ++m, y += width) {
      for (int64_t j = 0; j < width; ++j) y[j] = x[m * step + j] * masks[m * width + j];
    }
  }
}

void SoftmaxStep::run(const Frame& f) const {
  const int64_t n = in_shape(f).last(), rows = n ? f.rows * (in_shape(f).size() / n) : 0;
  const double* x = in<double>(f);
  double* y = out<double>(f);
  for (int64_t i = 0; i < rows; ++i, x += n, y += n) {
    double largest = x[0], sum = 0;
    for (int64_t j = 1; j < n; ++j) largest = x[j] > largest ? x[j] : largest;
    for (int64_t j = 0; j < n; ++j) sum += y[j] = std::exp(x[j] - largest);
    for (int64_t j = 0; j < n; ++j) y[j] /= sum;
  }
}

void PassMeanStep::run(const Frame& f) const {
  const int64_t passes = in_shape(f).dim[0], width = in_shape(f).dim[1];
  const double* x = in<double>(f);
  double* y = out<double>(f);
  for (int64_t i = 0; i < f.rows; ++i, x += passes * width, y += width) {
    for (int64_t j = 0; j < width; ++j) y[j] = mean_of(x, passes, width, j);
  }
}

void DisagreementStep::run(const Frame& f) const {
  const int64_t passes = in_shape(f).dim[0], width = in_shape(f).dim[1];
  const double* x = in<double>(f);
  double* y = out<double>(f);
  for (int64_t i = 0; i < f.rows; ++i, x += passes * width) {
    y[i] = passes == 1 ? 0.0 : variance ? variance_of(x, passes, width) : mutual_information(x, passes, width);
  }
}

void NormaliseStep::run(const Frame& f) const {
  const int64_t n = f.rows * in_shape(f).size();
  const float span = high - low, tiny = std::numeric_limits<float>::min();
  const double* x = in<double>(f);
  double* y = out<double>(f);
  for (int64_t i = 0; i < n; ++i) {
    const float share = (float(x[i]) - low) / (span < tiny ? tiny : span);
    y[i] = span > 0 ? double(share < 0 ? 0.0f : share > 1 ? 1.0f : share) : 0.0;
  }
}

void TiltStep::run(const Frame& f) const {
  const int64_t n = in_shape(f).size();
  const double *p = in<double>(f), *u = in<double>(f, 1);
  double* y = out<double>(f);
  for (int64_t i = 0; i < f.rows; ++i, p += n, y += n) {
    double largest = -std::numeric_limits<double>::infinity(), sum = 0, whole = 0;
    for (int64_t j = 0; j < n; ++j) {
      const double a = u[i] * slope[j] + intercept[j];
      if (p[j] > 0 && a > largest) largest = a;
    }
    for (int64_t j = 0; j < n; ++j) {
      const double a = u[i] * slope[j] + intercept[j];
      y[j] = p[j] <= 0 ? 0.0 : p[j] * std::exp(a - largest);  // NaN of NaN
      sum += y[j], whole += p[j];
    }
    for (int64_t j = 0; j < n; ++j) y[j] /= sum / whole;
  }
}

void ChooseStep::run(const Frame& f) const {
  const int64_t n = in_shape(f).size(), most = k < n ? k : n;
  const double* p = in<double>(f);
  float* y = out<float>(f);
  // As torch sorts: NaN before all numbers, and the first of equals.
  auto before = [](float a, float b) { return a != a ? b == b : a > b; };
  std::vector<char> chosen(size_t(n), 0);
  for (int64_t i = 0; i < f.rows; ++i, p += n, y += n) {
    std::fill(chosen.begin(), chosen.end(), char(0));
    float sum = 0;
    for (int64_t count = 0; count < most; ++count) {
      int64_t best = -1;
      for (int64_t j = 0; j < n; ++j) {
        if (!chosen[size_t(j)] && (best < 0 || before(float(p[j]), float(p[best])))) best = j;
      }
      chosen[size_t(best)] = 1;
      sum += float(p[best]);
    }
    for (int64_t j = 0; j < n; ++j) y[j] = chosen[size_t(j)] ? float(p[j]) / sum : 0.0f;
  }
}

void ConstantStep::run(const Frame& f) const {
  const int64_t n = out_shape(f).size();
  float* y = out<float>(f);
  for (int64_t i = 0; i < f.rows; ++i, y += n) std::memcpy(y, numbers, sizeof(float) * size_t(n));
}

int64_t ExpertsStep::workspace(const Placement& placement, size_t step) const {
  int64_t most = 0;
  for (const auto& body : placement.bodies(step)) most = body->row_nbytes() > most ? body->row_nbytes() : most;
  const int64_t experts = int64_t(placement.bodies(step).size());
  return most + grouped_nbytes(experts, placement.shape(inputs[0]).size(), placement.shape(output).size());
}

void ExpertsStep::run(const Frame& f) const {
  const auto& bodies = f.placement.bodies(f.step);
  const int64_t experts = int64_t(bodies.size()), features = in_shape(f).size(), outputs = out_shape(f).size();
  char* memory = f.workspace + f.rows * grouped_nbytes(experts, features, outputs);
  auto run = [&](int64_t e, const float* x, int64_t rows, float* y) {
    bodies[size_t(e)]->run_in(x, rows, y, memory, f.threads);
  };
  grouped(in<float>(f, 1), f.rows, experts, in<float>(f), features, out<float>(f), outputs, f.workspace, run);
}

}  // namespace qcore
