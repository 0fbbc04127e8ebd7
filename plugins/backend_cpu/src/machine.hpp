// Which kernels this processor can run.
#pragma once

#include <vector>

#include "product.hpp"

namespace qcore {

// Never given to another set: an exported program keeps blocks.
enum class Isa : int32_t { avx512vnni = 1, avxvnni = 2, avx512vl = 3, avx2 = 4, portable = 5, emulated512 = 6 };

struct InstructionSet {
  Isa id;
  Machine machine;
  bool supported;
  bool automatic;  // may be chosen unasked; the others are untried or for tests
};

// All instruction sets, best first. A block's header holds the id of one.
const std::vector<InstructionSet>& instruction_sets();

// What runs a block: what it was prepared for, or the portable kernels on a processor that lacks it.
const Machine& machine_for(const Header& h);

}  // namespace qcore
