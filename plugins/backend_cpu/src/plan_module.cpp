#include "plan_module.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <stdexcept>
#include <string>

#include "experts.hpp"
#include "machine.hpp"
#include "plan_codes.hpp"
#include "plan_layers.hpp"
#include "plan_routing.hpp"

namespace nb = nanobind;

namespace qcore {
namespace {

using Addresses = std::vector<uintptr_t>;

template <class T>
const T* pointer(uintptr_t address) {
  return reinterpret_cast<const T*>(address);
}

std::vector<const uint8_t*> blocks_of(const Addresses& addresses) {
  std::vector<const uint8_t*> blocks;
  for (const uintptr_t address : addresses) blocks.push_back(pointer<uint8_t>(address));
  if (blocks.empty()) throw std::invalid_argument("a block at least");
  return blocks;
}

// Bits, whether symmetric, scale, inverse and zero point of a static range.
using Scheme = std::tuple<int, bool, float, float, float>;

Activation activation_of(const Scheme& s) {
  const auto [bits, symmetric, scale, inverse, zero] = s;
  if (bits < 2 || bits > 8) throw std::invalid_argument("codes of 2 to 8 bits");
  return {Input::fixed, bits, symmetric, 0, scale, inverse, zero};
}

const RowKernels& rows_for(const std::string& isa) {
  for (const InstructionSet& set : instruction_sets()) {
    if (set.supported && set.machine.kernels->name == isa) return *set.machine.rows;
  }
  return PORTABLE_ROWS;
}

// Collects the steps of a program; a step reads values that are there already, and of the kind that it takes.
struct Assembly {
  explicit Assembly(const std::string& isa)
      : floats(floats_for(isa)), rows(rows_for(isa)), program(std::make_shared<Program>()) {}

  template <class S, class... Args>
  void add(Args&&... args) {
    auto step = std::make_unique<S>(std::forward<Args>(args)...);
    const int next = program->values();
    bool known = step->output == next;
    for (const int value : step->inputs) known = known && value >= 0 && value < next;
    if (!known) throw std::invalid_argument("values are numbered in the order in which steps give them");
    for (size_t i = 0; i < step->inputs.size(); ++i) {
      const Kind wanted = i ? Kind::floats : step->takes();
      if (kind(step->inputs[i]) != wanted) throw std::invalid_argument("a step takes codes, or floats, as they are given");
    }
    program->steps.push_back(std::move(step));
  }

  Finish finish(uintptr_t multiplier, uintptr_t offset, bool relu, float limit = INFINITY) const {
    return {pointer<float>(multiplier), pointer<float>(offset), relu, limit};
  }

  Kind kind(int value) const { return value ? program->steps[size_t(value - 1)]->gives() : Kind::floats; }

  const FloatKernels& floats;
  const RowKernels& rows;
  std::shared_ptr<Program> program;
};

// How the layer of `block` exchanges codes; those that it takes are made by its own static range.
Exchange exchange_of(const uint8_t* block, bool takes_codes, const std::optional<Scheme>& given) {
  if (takes_codes && header_of(block).activation.input != Input::fixed) {
    throw std::invalid_argument("a layer that takes codes has a static range");
  }
  return {takes_codes, given ? std::optional<Activation>(activation_of(*given)) : std::nullopt};
}

void add_packed_linear(Assembly& a, int x, int y, uintptr_t block, uintptr_t multiplier, uintptr_t offset, bool relu,
                       float limit, bool takes_codes, const std::optional<Scheme>& given) {
  const uint8_t* b = pointer<uint8_t>(block);
  const Exchange codes = exchange_of(b, takes_codes, given);
  a.add<PackedLinearStep>(x, y, a.floats, b, a.finish(multiplier, offset, relu, limit), codes);
}

// `walk`: kernel, stride, padding, dilation; each height and width.
Geometry walk_of(const std::vector<int64_t>& walk) {
  if (walk.size() != 8) throw std::invalid_argument("a walk of eight numbers");
  return {0, 0, 0, walk[0], walk[1], walk[2], walk[3], walk[4], walk[5], walk[6], walk[7], 0, 0, 0};
}

void add_packed_convolution(Assembly& a, int x, int y, const Addresses& blocks, const std::vector<int64_t>& walk,
                            uintptr_t multiplier, uintptr_t offset, bool relu, float limit, bool takes_codes,
                            const std::optional<Scheme>& given) {
  const auto b = blocks_of(blocks);
  if (b.empty()) throw std::invalid_argument("a convolution without blocks");
  const Exchange codes = exchange_of(b[0], takes_codes, given);
  a.add<PackedConvolutionStep>(x, y, a.floats, b, walk_of(walk), a.finish(multiplier, offset, relu, limit), codes);
}

void add_linear(Assembly& a, int x, int y, uintptr_t panels, uintptr_t bias, int64_t features, int64_t outputs,
                bool wide_input, bool wide, bool relu) {
  const FloatWeight weight{pointer<float>(panels), pointer<float>(bias), features, outputs};
  a.add<LinearStep>(x, y, a.floats, weight, wide_input, wide, relu);
}

// One weight a group.
void add_convolution(Assembly& a, int x, int y, const Addresses& panels, const Addresses& biases, int64_t features,
                     int64_t outputs, const std::vector<int64_t>& walk, bool relu) {
  if (panels.empty() || panels.size() != biases.size()) throw std::invalid_argument("a weight and a bias a group");
  std::vector<FloatWeight> groups;
  for (size_t i = 0; i < panels.size(); ++i) {
    groups.push_back({pointer<float>(panels[i]), pointer<float>(biases[i]), features, outputs});
  }
  a.add<ConvolutionStep>(x, y, a.floats, std::move(groups), walk_of(walk), relu);
}

void add_layer_norm(Assembly& a, int x, int y, uintptr_t weight, uintptr_t bias, float eps, bool relu) {
  a.add<LayerNormStep>(x, y, a.floats, pointer<float>(weight), pointer<float>(bias), eps, relu);
}

void add_batch_norm(Assembly& a, int x, int y, uintptr_t multiplier, uintptr_t offset, bool relu) {
  a.add<BatchNormStep>(x, y, a.floats, a.finish(multiplier, offset, relu));
}

void add_standardize(Assembly& a, int x, int y, uintptr_t mean, uintptr_t std) {
  a.add<StandardizeStep>(x, y, a.floats, pointer<float>(mean), pointer<float>(std));
}

void add_max_pool(Assembly& a, int x, int y, const std::vector<int64_t>& window) {
  if (window.size() != 8) throw std::invalid_argument("a window of eight numbers");
  a.add<MaxPoolStep>(x, y, a.floats, window);
}

void add_max_pool_codes(Assembly& a, int x, int y, const std::vector<int64_t>& window, const Scheme& scheme) {
  if (window.size() != 8) throw std::invalid_argument("a window of eight numbers");
  a.add<MaxPoolCodesStep>(x, y, a.floats, window, activation_of(scheme));
}

void add_relu_codes(Assembly& a, int x, int y, const Scheme& scheme) {
  if (x < 0 || x >= a.program->values()) throw std::invalid_argument("a value that is there");
  a.add<ReluCodesStep>(x, y, a.kind(x), activation_of(scheme));
}

void add_limit_codes(Assembly& a, int x, int y, float top, const Scheme& scheme) {
  if (x < 0 || x >= a.program->values()) throw std::invalid_argument("a value that is there");
  a.add<LimitCodesStep>(x, y, a.kind(x), top, activation_of(scheme));
}

void add_tilt(Assembly& a, int p, int u, int y, uintptr_t slope, uintptr_t intercept) {
  a.add<TiltStep>(p, u, y, pointer<double>(slope), pointer<double>(intercept));
}

std::shared_ptr<Placement> make_placement(const Assembly& a, int output, const std::vector<std::vector<int64_t>>& shapes,
                                    const std::vector<std::vector<std::shared_ptr<Placement>>>& bodies) {
  if (output < 0 || output >= a.program->values() || a.kind(output) != Kind::floats) {
    throw std::invalid_argument("a program gives floats");
  }
  std::vector<Shape> sizes;
  for (const auto& dim : shapes) sizes.push_back({dim});
  std::vector<std::vector<std::shared_ptr<const Placement>>> inner;
  for (const auto& some : bodies) inner.emplace_back(some.begin(), some.end());
  return std::make_shared<Placement>(a.program, output, std::move(sizes), std::move(inner));
}

void run(const Placement& placement, uintptr_t x, int64_t rows, uintptr_t y, int threads) {
  placement.run(pointer<float>(x), rows, reinterpret_cast<float*>(y), threads);
}

void moe_linear(const Addresses& blocks, uintptr_t weights, uintptr_t x, int64_t rows, uintptr_t y, int threads) {
  run_moe_linear(blocks_of(blocks), pointer<float>(weights), pointer<float>(x), rows, reinterpret_cast<float*>(y),
                 threads);
}

}  // namespace

void bind_plans(nb::module_& m) {
  using release = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Placement>(m, "Placement").def("run", &run, release());
  nb::class_<Assembly>(m, "Program")
      .def(nb::init<const std::string&>())
      .def("packed_linear", &add_packed_linear)
      .def("packed_convolution", &add_packed_convolution)
      .def("linear", &add_linear)
      .def("convolution", &add_convolution)
      .def("layer_norm", &add_layer_norm)
      .def("batch_norm", &add_batch_norm)
      .def("standardize", &add_standardize)
      .def("rescale", [](Assembly& a, int x, int y, float mean, float std) { a.add<RescaleStep>(x, y, mean, std); })
      .def("relu", [](Assembly& a, int x, int y, bool wide) { a.add<ReluStep>(x, y, a.floats, wide); })
      .def("add", [](Assembly& a, int p, int q, int y, bool relu) { a.add<AddStep>(p, q, y, a.floats, relu); })
      .def("limit", [](Assembly& a, int x, int y, float top) { a.add<LimitStep>(x, y, a.floats, top); })
      .def("rename", [](Assembly& a, int x, int y) { a.add<RenameStep>(x, y); })
      .def("max_pool", &add_max_pool)
      .def("max_pool_codes", &add_max_pool_codes)
      .def("relu_codes", &add_relu_codes)
      .def("limit_codes", &add_limit_codes)
      .def("flatten_codes", [](Assembly& a, int x, int y) { a.add<FlattenCodesStep>(x, y, a.rows); })
      .def("spatial_mean", [](Assembly& a, int x, int y) { a.add<SpatialMeanStep>(x, y); })
      .def("masks", [](Assembly& a, int x, int y, uintptr_t p) { a.add<MasksStep>(x, y, pointer<double>(p)); })
      .def("softmax", [](Assembly& a, int x, int y) { a.add<SoftmaxStep>(x, y); })
      .def("pass_mean", [](Assembly& a, int x, int y) { a.add<PassMeanStep>(x, y); })
      .def("disagreement", [](Assembly& a, int x, int y, bool variance) { a.add<DisagreementStep>(x, y, variance); })
      .def("normalise", [](Assembly& a, int x, int y, float l, float h) { a.add<NormaliseStep>(x, y, l, h); })
      .def("tilt", &add_tilt)
      .def("choose", [](Assembly& a, int x, int y, int64_t k) { a.add<ChooseStep>(x, y, k); })
      .def("constant", [](Assembly& a, int x, int y, uintptr_t p) { a.add<ConstantStep>(x, y, pointer<float>(p)); })
      .def("experts", [](Assembly& a, int x, int weights, int y) { a.add<ExpertsStep>(x, weights, y); })
      .def("place", &make_placement);
  m.def("moe_linear", &moe_linear, release());
}

}  // namespace qcore
