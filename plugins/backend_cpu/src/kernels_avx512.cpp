// Compiled with -mavx512f -mavx512bw -mavx512vnni: reached only where the processor has them.
#include "depthwise_avx512.hpp"
#include "fields.hpp"
#include "reals_avx512.hpp"
#include "rows_avx512.hpp"
#include "vector_avx512.hpp"

namespace qcore {

constexpr Kernels AVX512VNNI_ = Steps<Avx512Vnni>::table("avx512vnni", 1, real_product512);
extern const Kernels AVX512VNNI = AVX512VNNI_;

constexpr RowCoding AVX512_CODING_ = {range512, encode512, encode_within512, encode_columns512};
extern const RowCoding AVX512_CODING = AVX512_CODING_;

}  // namespace qcore
