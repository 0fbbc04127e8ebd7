// Which kernels this processor can run.
#pragma once

#include <vector>

#include "product.hpp"

namespace qcore {

struct InstructionSet {
  Machine machine;
  bool supported;
  bool automatic;  // may be chosen unasked; the others are untried or for tests
};

// All instruction sets, best first. A block's header holds an index into this list.
const std::vector<InstructionSet>& instruction_sets();

// What runs a block: what it was prepared for, or the portable kernels on a processor that lacks it.
const Machine& machine_for(const Header& h);

}  // namespace qcore
