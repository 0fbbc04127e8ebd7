#include "floats.hpp"

namespace qcore {

const FloatKernels& floats_for(const std::string& isa) {
#if defined(QCORE_X86)
  if (isa == "avx512vnni") return AVX512_FLOATS;
  if (isa == "avxvnni" || isa == "avx512vl" || isa == "avx2") return AVX2_FLOATS;
#endif
  return PORTABLE_FLOATS;
}

}  // namespace qcore
