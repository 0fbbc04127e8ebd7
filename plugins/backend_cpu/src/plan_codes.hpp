// The steps that order and move codes: qcore.backends.plan.layers, where they have a field `codes`.
#pragma once

#include <vector>

#include "floats.hpp"
#include "linear.hpp"
#include "plan.hpp"

namespace qcore {

// The byte of the least code, and that of zero.
struct Ends {
  explicit Ends(const Activation& a) {
    const Coder c = fixed_coder(a);
    least = int8_t(int(c.low) - c.less);
    zero = int8_t(-c.shift);
  }
  int8_t least, zero;
};

struct MaxPoolCodesStep : Step {
  // `window` as that of MaxPoolStep.
  MaxPoolCodesStep(int x, int y, const FloatKernels& floats, std::vector<int64_t> window, const Activation& scheme)
      : Step({x}, y), floats(floats), window(std::move(window)), ends(scheme) {}
  void run(const Frame& f) const override;
  Kind takes() const override { return Kind::images; }
  Kind gives() const override { return Kind::images; }

  const FloatKernels& floats;
  std::vector<int64_t> window;
  Ends ends;
};

struct ReluCodesStep : Step {
  ReluCodesStep(int x, int y, Kind kind, const Activation& scheme) : Step({x}, y), kind(kind), ends(scheme) {}
  void run(const Frame& f) const override;
  Kind takes() const override { return kind; }
  Kind gives() const override { return kind; }

  Kind kind;
  Ends ends;
};

struct LimitCodesStep : Step {
  LimitCodesStep(int x, int y, Kind kind, float top, const Activation& scheme);
  void run(const Frame& f) const override;
  Kind takes() const override { return kind; }
  Kind gives() const override { return kind; }

  Kind kind;
  int8_t most;  // the byte of the largest number
};

// Images with their channels last to rows with their channels first.
struct FlattenCodesStep : Step {
  FlattenCodesStep(int x, int y, const RowKernels& kernels) : Step({x}, y), kernels(kernels) {}
  void run(const Frame& f) const override;
  Kind takes() const override { return Kind::images; }
  Kind gives() const override { return Kind::rows; }

  const RowKernels& kernels;
};

}  // namespace qcore
