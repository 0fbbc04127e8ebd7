// The Python side of plans.
#pragma once

#include <nanobind/nanobind.h>

namespace qcore {

void bind_plans(nanobind::module_& m);

}  // namespace qcore
