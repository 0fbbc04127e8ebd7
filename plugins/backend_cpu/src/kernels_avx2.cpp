// Compiled with -mavx2 -mfma: reached only where the processor has both.
#include "depthwise_avx2.hpp"
#include "fields.hpp"
#include "rows_avx2.hpp"
#include "vector_avx.hpp"

namespace qcore {

constexpr Kernels AVX2_ = Steps<Avx2>::table("avx2", 2);
extern const Kernels AVX2 = AVX2_;
extern const RowCoding AVX2_CODING = {range, encode, nullptr, encode_columns};
extern const RowKernels AVX2_ROWS = {sum, scale, widen, real_gemm, real_scale, transpose,
                                      transpose_bytes, finite_range, fake, finish};

}  // namespace qcore
