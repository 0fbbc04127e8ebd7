// Compiled for any processor.
#include "floats_impl.hpp"

namespace qcore {

extern const FloatKernels PORTABLE_FLOATS = FLOATS;

}  // namespace qcore
