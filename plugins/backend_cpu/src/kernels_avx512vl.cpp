// Compiled with -mavx512f -mavx512vl -mavx512vnni: the AVX-VNNI kernels in the encoding of AVX-512. They are how those
// are tested on a processor that has only the latter.
#include "fields.hpp"
#include "vector_avx.hpp"

namespace qcore {

constexpr Kernels AVX512VL_ = Steps<AvxVnni>::table("avx512vl", 1);
extern const Kernels AVX512VL = AVX512VL_;

}  // namespace qcore
