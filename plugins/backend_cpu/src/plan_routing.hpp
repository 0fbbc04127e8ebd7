// The steps of routers and mixtures: qcore.backends.plan.routing. Numbers are double but for the weights.
#pragma once

#include "plan.hpp"

namespace qcore {

struct WideStep : Step {
  using Step::Step;
  int64_t item_nbytes() const override { return 8; }
};

struct MasksStep : WideStep {
  MasksStep(int x, int y, const double* masks) : WideStep({x}, y), masks(masks) {}
  void run(const Frame& f) const override;

  const double* masks;
};

struct SoftmaxStep : WideStep {
  SoftmaxStep(int x, int y) : WideStep({x}, y) {}
  void run(const Frame& f) const override;
  bool in_place() const override { return true; }
};

struct PassMeanStep : WideStep {
  PassMeanStep(int x, int y) : WideStep({x}, y) {}
  void run(const Frame& f) const override;
};

struct DisagreementStep : WideStep {
  DisagreementStep(int x, int y, bool variance) : WideStep({x}, y), variance(variance) {}
  void run(const Frame& f) const override;

  bool variance;  // else mutual information
};

struct NormaliseStep : WideStep {
  NormaliseStep(int x, int y, float low, float high) : WideStep({x}, y), low(low), high(high) {}
  void run(const Frame& f) const override;
  bool in_place() const override { return true; }

  float low, high;
};

struct TiltStep : WideStep {
  TiltStep(int p, int u, int y, const double* slope, const double* intercept)
      : WideStep({p, u}, y), slope(slope), intercept(intercept) {}
  void run(const Frame& f) const override;

  const double *slope, *intercept;
};

struct ChooseStep : Step {
  ChooseStep(int x, int y, int64_t k) : Step({x}, y), k(k) {}
  void run(const Frame& f) const override;

  int64_t k;
};

struct ConstantStep : Step {
  ConstantStep(int x, int y, const float* numbers) : Step({x}, y), numbers(numbers) {}
  void run(const Frame& f) const override;

  const float* numbers;
};

struct ExpertsStep : Step {
  ExpertsStep(int x, int weights, int y) : Step({x, weights}, y) {}
  void run(const Frame& f) const override;
  int64_t workspace(const Placement& placement, size_t step) const override;
};

}  // namespace qcore
