// Compiled with -mavx2 -mavxvnni: reached only where the processor has both.
#include "fields.hpp"
#include "vector_avx.hpp"

namespace qcore {

constexpr Kernels AVXVNNI_ = Steps<AvxVnni>::table("avxvnni", 1);
extern const Kernels AVXVNNI = AVXVNNI_;

}  // namespace qcore
