// Compiled with -mavx2 -mavxvnni: reached only where the processor has both.
#include "fields.hpp"
#include "vector_avx.hpp"

namespace qcore {

extern const Kernels AVXVNNI = Steps<AvxVnni>::table("avxvnni", 2);

}  // namespace qcore
