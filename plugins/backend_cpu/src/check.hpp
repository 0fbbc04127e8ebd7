// Whether bytes that came from outside are a prepared weight.
#pragma once

#include <cstdint>

#include "layout.hpp"

namespace qcore {

// Whether every read of a kernel on this block stays within its `nbytes` bytes and every write within its rows.
bool is_block(const uint8_t* block, int64_t nbytes);

}  // namespace qcore
