// Compiled with -mavx512f: reached only where the processor has it.
#include "floats_impl.hpp"

namespace qcore {

extern const FloatKernels AVX512_FLOATS = FLOATS;

}  // namespace qcore
