// The steps of layers: qcore.backends.plan.layers.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "convolution.hpp"
#include "floats.hpp"
#include "plan.hpp"

namespace qcore {

// A batch norm folded into a multiplier and an offset a channel (null: none), a ReLU, and the largest output.
class Finish {
 public:
  const float* multiplier;
  const float* offset;
  bool relu;
  float limit = INFINITY;

  // In place or not, for `rows` samples of `shape`.
  void apply(const FloatKernels& floats, const Shape& shape, const float* x, int64_t rows, float* y) const;

 private:
  void normalize(const FloatKernels& floats, const Shape& shape, const float* x, int64_t rows, float* y) const;
};

// How a convolution walks from a frame's input to its output.
Geometry between(const Geometry& walk, const Shape& from, const Shape& to);

// How a packed layer takes its input and gives its output: as floats, or as codes, which `given` says how to make.
struct Exchange {
  bool takes_codes;
  std::optional<Activation> given;
};

struct PackedLinearStep : Step {
  PackedLinearStep(int x, int y, const FloatKernels& floats, const uint8_t* block, Finish finish, const Exchange& codes)
      : Step({x}, y), floats(floats), block(block), finish(finish), codes(codes) {}
  void run(const Frame& f) const override;
  Kind takes() const override { return codes.takes_codes ? Kind::rows : Kind::floats; }
  Kind gives() const override { return codes.given ? Kind::rows : Kind::floats; }
  int64_t workspace(const Placement& p, size_t) const override;

  const FloatKernels& floats;
  const uint8_t* block;
  Finish finish;
  Exchange codes;
};

struct PackedConvolutionStep : Step {
  PackedConvolutionStep(int x, int y, const FloatKernels& floats, std::vector<const uint8_t*> blocks, Geometry walk,
                        Finish finish, const Exchange& codes)
      : Step({x}, y), floats(floats), blocks(std::move(blocks)), walk(walk), finish(finish), codes(codes) {
    if (!codes.given) return;
    const int64_t channels = header_of(this->blocks[0]).rows * int64_t(this->blocks.size());
    over.emplace(floats, channels, finish.multiplier, finish.offset, finish.relu, finish.limit, *codes.given);
  }
  void run(const Frame& f) const override;
  Kind takes() const override { return codes.takes_codes ? Kind::images : Kind::floats; }
  Kind gives() const override { return codes.given ? Kind::images : Kind::floats; }

  const FloatKernels& floats;
  std::vector<const uint8_t*> blocks;
  Geometry walk;  // its sizes are those of a frame's shapes
  Finish finish;
  Exchange codes;
  std::optional<HandOver> over;
};

struct LinearStep : Step {
  LinearStep(int x, int y, const FloatKernels& floats, FloatWeight weight, bool wide_input, bool wide, bool relu)
      : Step({x}, y), floats(floats), weight(weight), wide_input(wide_input), wide(wide), relu(relu) {}
  void run(const Frame& f) const override;
  int64_t item_nbytes() const override { return wide ? 8 : 4; }

  const FloatKernels& floats;
  FloatWeight weight;
  bool wide_input, wide, relu;
};

struct ConvolutionStep : Step {
  // One weight a group; columns in the order (channel, kernel height, kernel width).
  ConvolutionStep(int x, int y, const FloatKernels& floats, std::vector<FloatWeight> groups, Geometry walk, bool relu)
      : Step({x}, y), floats(floats), groups(std::move(groups)), walk(walk), relu(relu) {}
  void run(const Frame& f) const override;

  const FloatKernels& floats;
  std::vector<FloatWeight> groups;
  Geometry walk;  // its sizes are those of a frame's shapes
  bool relu;
};

struct LayerNormStep : Step {
  LayerNormStep(int x, int y, const FloatKernels& floats, const float* weight, const float* bias, float eps, bool relu)
      : Step({x}, y), floats(floats), weight(weight), bias(bias), eps(eps), relu(relu) {}
  void run(const Frame& f) const override;
  bool in_place() const override { return true; }

  const FloatKernels& floats;
  const float *weight, *bias;
  float eps;
  bool relu;
};

struct BatchNormStep : Step {
  BatchNormStep(int x, int y, const FloatKernels& floats, Finish finish)
      : Step({x}, y), floats(floats), finish(finish) {}
  void run(const Frame& f) const override;
  bool in_place() const override { return true; }

  const FloatKernels& floats;
  Finish finish;
};

struct StandardizeStep : Step {
  StandardizeStep(int x, int y, const FloatKernels& floats, const float* mean, const float* std)
      : Step({x}, y), floats(floats), mean(mean), std(std) {}
  void run(const Frame& f) const override;
  bool in_place() const override { return true; }

  const FloatKernels& floats;
  const float *mean, *std;
};

struct RescaleStep : Step {
  RescaleStep(int x, int y, float mean, float std) : Step({x}, y), mean(mean), std(std) {}
  void run(const Frame& f) const override;
  bool in_place() const override { return true; }

  float mean, std;
};

struct ReluStep : Step {
  ReluStep(int x, int y, const FloatKernels& floats, bool wide) : Step({x}, y), floats(floats), wide(wide) {}
  void run(const Frame& f) const override;
  int64_t item_nbytes() const override { return wide ? 8 : 4; }
  bool in_place() const override { return true; }

  const FloatKernels& floats;
  bool wide;
};

struct LimitStep : Step {
  LimitStep(int x, int y, const FloatKernels& floats, float top) : Step({x}, y), floats(floats), top(top) {}
  void run(const Frame& f) const override;
  bool in_place() const override { return true; }

  const FloatKernels& floats;
  float top;
};

struct AddStep : Step {
  AddStep(int a, int b, int y, const FloatKernels& floats, bool relu) : Step({a, b}, y), floats(floats), relu(relu) {}
  void run(const Frame& f) const override;
  bool in_place() const override { return true; }

  const FloatKernels& floats;
  bool relu;
};

struct RenameStep : Step {
  RenameStep(int x, int y) : Step({x}, y) {}
  void run(const Frame&) const override {}
  bool renames() const override { return true; }
};

struct MaxPoolStep : Step {
  // `window`: kernel, stride, padding, dilation; each height and width.
  MaxPoolStep(int x, int y, const FloatKernels& floats, std::vector<int64_t> window)
      : Step({x}, y), floats(floats), window(std::move(window)) {}
  void run(const Frame& f) const override;

  const FloatKernels& floats;
  std::vector<int64_t> window;
};

struct SpatialMeanStep : Step {
  SpatialMeanStep(int x, int y) : Step({x}, y) {}
  void run(const Frame& f) const override;
};

}  // namespace qcore
