// The Python module: tensors come as addresses, because that is several times cheaper than as objects. The Python side
// has checked shapes, dtypes and memory layout.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "check.hpp"
#include "convolution.hpp"
#include "fake.hpp"
#include "linear.hpp"
#include "machine.hpp"
#include "plan_module.hpp"
#include "prepare.hpp"

namespace nb = nanobind;
using namespace qcore;

namespace {

template <class T>
const T* pointer(uintptr_t address) {
  return reinterpret_cast<const T*>(address);
}

std::vector<std::tuple<std::string, bool, bool>> list_instruction_sets() {
  std::vector<std::tuple<std::string, bool, bool>> names;
  for (const auto& set : instruction_sets()) names.emplace_back(set.machine.kernels->name, set.supported, set.automatic);
  return names;
}

int32_t index_of(const std::string& isa) {
  const auto& all = instruction_sets();
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].machine.kernels->name == isa && all[i].supported) return int32_t(i);
  }
  throw std::invalid_argument("this processor has no " + isa);
}

// A weight on its way from stored codes to a block.
struct Preparation {
  Stored stored{};
  Header header{};

  void add(int bits, bool trits, int step, int offset, uintptr_t data, int64_t rows, int64_t row_nbytes) {
    stored.blocks.push_back({bits, trits, step, offset, pointer<uint8_t>(data), rows, row_nbytes});
  }

  void scales(uintptr_t scale, uintptr_t zero_point, bool per_row) {
    stored.scale = pointer<float>(scale);
    stored.zero_point = pointer<uint8_t>(zero_point);
    stored.scale_rows = per_row;
  }

  void rows(uintptr_t bias, uintptr_t order, uintptr_t columns) {
    stored.bias = pointer<float>(bias);
    stored.order = pointer<int32_t>(order);
    stored.columns = pointer<int32_t>(columns);
  }

  void activation(int input, int bits, bool symmetric, float floor, float scale, float inverse, float zero_point) {
    stored.activation = {Input(input), bits, symmetric, floor, scale, inverse, zero_point};
  }

  // A convolution whose every channel has a kernel of its own, rows being channels.
  void depthwise() { stored.depthwise = true; }

  void columns(uintptr_t numbers) { stored.input_columns = pointer<float>(numbers); }

  int64_t plan(const std::string& isa) {
    const int32_t index = index_of(isa);
    header = qcore::plan(stored, *instruction_sets()[size_t(index)].machine.kernels);
    header.isa = int32_t(instruction_sets()[size_t(index)].id);
    return header.nbytes;
  }

  void fill(uintptr_t out) { qcore::fill(stored, header, reinterpret_cast<uint8_t*>(out)); }
};

void linear(uintptr_t block, uintptr_t x, int64_t rows, uintptr_t y, int threads) {
  const uint8_t* b = pointer<uint8_t>(block);
  run_linear(machine_for(header_of(b)), b, Source{pointer<float>(x)}, rows, reinterpret_cast<float*>(y), threads);
}

void linear_coded(uintptr_t block, uintptr_t x, int64_t rows, uintptr_t y, int threads, uintptr_t scale,
                  uintptr_t zero_point, bool per_row, int step, int less) {
  const uint8_t* b = pointer<uint8_t>(block);
  const Coded coded{pointer<float>(scale), pointer<float>(zero_point), per_row, step, less};
  run_linear(machine_for(header_of(b)), b, Source{pointer<float>(x), &coded}, rows, reinterpret_cast<float*>(y), threads);
}

Geometry geometry_of(const std::vector<int64_t>& v) {
  if (v.size() != 14) throw std::invalid_argument("a geometry of 14 numbers");
  return {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12], v[13]};
}

void convolution(const std::vector<uintptr_t>& addresses, const std::vector<int64_t>& geometry, uintptr_t x,
                 int64_t images, uintptr_t y, int threads, uintptr_t scale, uintptr_t zero_point, bool per_row,
                 int less, bool channels_last) {
  std::vector<const uint8_t*> blocks;
  for (const uintptr_t address : addresses) blocks.push_back(pointer<uint8_t>(address));
  const Coded coded{pointer<float>(scale), pointer<float>(zero_point), per_row, 1, less};
  const Layout layout = channels_last ? Layout::channels_last : Layout::channels_first;
  const Source from{pointer<float>(x), scale ? &coded : nullptr};
  run_convolution(machine_for(header_of(blocks.at(0))), blocks, geometry_of(geometry), from, images,
                  Target{reinterpret_cast<float*>(y)}, threads, layout);
}

bool fake(const std::string& isa, uintptr_t x, int64_t slices, int64_t n, int bits, bool symmetric, float floor,
          uintptr_t y, int threads) {
  const RowKernels& rows = *instruction_sets()[size_t(index_of(isa))].machine.rows;
  return fake_quantize(rows, pointer<float>(x), slices, n, bits, symmetric, floor, reinterpret_cast<float*>(y),
                       threads);
}

const FakeKernels& fake_rows(const std::string& isa) {
  return *instruction_sets()[size_t(index_of(isa))].machine.fakes;
}

// An address and whether there is a number for each slice; 0 for what is absent.
using Values = std::tuple<uintptr_t, bool>;

PerSlice per_slice(const Values& values) { return {pointer<float>(std::get<0>(values)), std::get<1>(values)}; }

bool grid(const std::string& isa, uintptr_t x, int64_t slices, int64_t n, const Values& inverse, const Values& scale,
          const Values& zero, float low, float high, uintptr_t y, int threads) {
  const FakeGrid grid{per_slice(inverse), per_slice(scale), per_slice(zero), low, high};
  return fake_to_grid(fake_rows(isa), pointer<float>(x), slices, n, grid, reinterpret_cast<float*>(y), threads);
}

bool sign(const std::string& isa, uintptr_t x, int64_t slices, int64_t n, const Values& threshold,
          const Values& magnitude, uintptr_t y, int threads) {
  return fake_to_sign(fake_rows(isa), pointer<float>(x), slices, n, per_slice(threshold), per_slice(magnitude),
                      reinterpret_cast<float*>(y), threads);
}

bool odd(const std::string& isa, uintptr_t x, int64_t slices, int64_t n, const Values& inverse, const Values& half,
         const Values& top, uintptr_t y, int threads) {
  return fake_to_odd(fake_rows(isa), pointer<float>(x), slices, n, per_slice(inverse), per_slice(half), per_slice(top),
                     reinterpret_cast<float*>(y), threads);
}

void products(const std::string& isa, uintptr_t g, uintptr_t x, int64_t slices, int64_t n, int count, uintptr_t inverse,
              uintptr_t half, uintptr_t top, uintptr_t out, int threads) {
  fake_odd_products(fake_rows(isa), pointer<float>(g), pointer<float>(x), slices, n, count, pointer<float>(inverse),
                    pointer<float>(half), pointer<float>(top), reinterpret_cast<float*>(out), threads);
}

void mask(const std::string& isa, uintptr_t g, uintptr_t x, int64_t slices, int64_t n, const Values& low,
          const Values& high, uintptr_t dx, int threads) {
  fake_mask(fake_rows(isa), pointer<float>(g), pointer<float>(x), slices, n, per_slice(low), per_slice(high),
            reinterpret_cast<float*>(dx), threads);
}

void learned(const std::string& isa, uintptr_t g, uintptr_t x, int64_t slices, int64_t n, const Values& scale,
             float low, float high, uintptr_t dx, uintptr_t dscale, int threads) {
  fake_learned(fake_rows(isa), pointer<float>(g), pointer<float>(x), slices, n, per_slice(scale), low, high,
               reinterpret_cast<float*>(dx), reinterpret_cast<float*>(dscale), threads);
}

void sums(const std::string& isa, uintptr_t x, int64_t slices, int64_t n, bool magnitude, uintptr_t out, int threads) {
  fake_sums(fake_rows(isa), pointer<float>(x), slices, n, magnitude, reinterpret_cast<double*>(out), threads);
}

// Ask for huge pages, which save address translations where a weight streams from memory. A refusal changes nothing.
void advise(uintptr_t start, int64_t nbytes) {
#if defined(__linux__)
  (void)madvise(reinterpret_cast<void*>(start), size_t(nbytes), MADV_HUGEPAGE);
#else
  (void)start, (void)nbytes;
#endif
}

using Activations = std::tuple<int, int, float, float, float, float>;

// (rows, columns, input, segments, isa, activations, depthwise) of a block; an error for anything else.
std::tuple<int64_t, int64_t, int, int64_t, int, Activations, bool> describe(uintptr_t block, int64_t nbytes) {
  const uint8_t* b = pointer<uint8_t>(block);
  if (!is_block(b, nbytes)) throw std::invalid_argument("this is no weight that qcore_backend_cpu prepared");
  const Header& h = header_of(b);
  const Activation& a = h.activation;
  return {h.rows, h.cols, int(a.input), h.segments, h.isa,
          {a.bits, a.symmetric, a.floor, a.scale, a.inverse, a.zero_point}, h.depthwise != 0};
}

}  // namespace

NB_MODULE(_kernels, m) {
  m.doc() = "Packed low-bit kernels for CPUs.";
  using release = nb::call_guard<nb::gil_scoped_release>;
  m.def("instruction_sets", &list_instruction_sets);
  nb::class_<Preparation>(m, "Preparation")
      .def("__init__",
           [](Preparation* self, int64_t cols, int64_t group, bool wide, bool relu) {
             new (self) Preparation;
             self->stored.cols = cols, self->stored.group = group;
             self->stored.wide = wide, self->stored.relu = relu;
           })
      .def("add", &Preparation::add)
      .def("scales", &Preparation::scales)
      .def("rows", &Preparation::rows)
      .def("activation", &Preparation::activation)
      .def("columns", &Preparation::columns)
      .def("depthwise", &Preparation::depthwise)
      .def("plan", &Preparation::plan)
      .def("fill", &Preparation::fill, release());
  m.def("advise", &advise);
  m.def("linear", &linear, release());
  m.def("describe", &describe);
  m.def("fake_quantize", &fake, release());
  m.def("round_to_grid", &grid, release());
  m.def("round_to_sign", &sign, release());
  m.def("round_to_odd", &odd, release());
  m.def("odd_products", &products, release());
  m.def("mask_gradient", &mask, release());
  m.def("slice_sums", &sums, release());
  m.def("learned_scale_gradients", &learned, release());
  m.def("convolution", &convolution, release());
  m.def("linear_coded", &linear_coded, release());
  bind_plans(m);
}
