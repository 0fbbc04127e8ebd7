// Portable kernels, and the 512-bit layout run by them.
#include "depthwise_portable.hpp"
#include "fields.hpp"
#include "rows_portable.hpp"
#include "vector_emulated.hpp"

namespace qcore {

constexpr Kernels PORTABLE_ = Steps<Emulated<8, 4>>::table("portable", 2);
constexpr Kernels EMULATED512_ = Steps<Emulated<16, 4>>::table("emulated512", 2);
extern const Kernels PORTABLE = PORTABLE_;
extern const Kernels EMULATED512 = EMULATED512_;
extern const RowCoding PORTABLE_CODING = {range, encode, nullptr, encode_columns};
extern const RowKernels PORTABLE_ROWS = {sum, scale, widen, real_gemm, real_scale, transpose,
                                      transpose_bytes, finite_range, fake, finish};

void depthwise_portable(const DepthwiseLine& line) { depthwise_line<8>(line); }
void depthwise_emulated512(const DepthwiseLine& line) { depthwise_line<16>(line); }

}  // namespace qcore
