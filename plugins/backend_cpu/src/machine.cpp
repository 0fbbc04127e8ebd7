#include "machine.hpp"

#include "fake.hpp"

#if defined(QCORE_X86)
#include <cpuid.h>
#endif

namespace qcore {
namespace {

const Machine PORTABLE_MACHINE{&PORTABLE, &PORTABLE_CODING, &PORTABLE_ROWS, &FAKE_PORTABLE, depthwise_portable};
const Machine EMULATED_MACHINE{&EMULATED512, &PORTABLE_CODING, &PORTABLE_ROWS, &FAKE_PORTABLE,
                               depthwise_emulated512};

#if defined(QCORE_X86)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool has_avxvnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

bool has_avx512vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

std::vector<InstructionSet> find() {
  std::vector<InstructionSet> found;
#if defined(QCORE_X86)
  const Machine best{&AVX512VNNI, &AVX512_CODING, &AVX2_ROWS, &FAKE_AVX2, depthwise_avx512};
  auto with_rows_of_avx2 = [](const Kernels& kernels) {
    return Machine{&kernels, &AVX2_CODING, &AVX2_ROWS, &FAKE_AVX2, depthwise_avx2};
  };
  found.push_back({Isa::avx512vnni, best, has_avx512vnni(), true});
  // Not yet run on such a processor: not chosen unasked.
  found.push_back({Isa::avxvnni, with_rows_of_avx2(AVXVNNI), has_avxvnni(), false});
  const bool has_avx512vl = has_avx512vnni() && __builtin_cpu_supports("avx512vl");
  found.push_back({Isa::avx512vl, with_rows_of_avx2(AVX512VL), has_avx512vl, false});
  found.push_back({Isa::avx2, with_rows_of_avx2(AVX2), has_avx2(), true});
#endif
  found.push_back({Isa::portable, PORTABLE_MACHINE, true, true});
  found.push_back({Isa::emulated512, EMULATED_MACHINE, true, false});
  return found;
}

}  // namespace

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> all = find();
  return all;
}

const Machine& machine_for(const Header& h) {
  for (const InstructionSet& set : instruction_sets()) {
    const Kernels& kernels = *set.machine.kernels;
    const bool fits = kernels.lanes == h.lanes && kernels.split8 == bool(h.split8);
    if (int32_t(set.id) == h.isa && set.supported && fits) return set.machine;
  }
  return h.lanes == PORTABLE.lanes ? PORTABLE_MACHINE : EMULATED_MACHINE;
}

}  // namespace qcore
