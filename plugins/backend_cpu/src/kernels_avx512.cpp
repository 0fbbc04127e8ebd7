// Compiled with -mavx512f -mavx512bw -mavx512vnni: reached only where the processor has them.
#include "fields.hpp"
#include "vector_avx512.hpp"

namespace qcore {

extern const Kernels AVX512VNNI = Steps<Avx512Vnni>::table("avx512vnni", 2);

}  // namespace qcore
