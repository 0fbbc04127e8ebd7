// Compiled with -mavx2 -mfma: reached only where the processor has both.
#include "floats_impl.hpp"

namespace qcore {

extern const FloatKernels AVX2_FLOATS = FLOATS;

}  // namespace qcore
