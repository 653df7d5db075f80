// What of AVX-512 VNNI several files share.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)
#define SALCR_HAS_BYTES 1
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"  // in GCC's own header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#define SALCR_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,f16c,fma")))
#define SALCR_VNNI_INLINE SALCR_VNNI __attribute__((always_inline)) inline

namespace salcr {
namespace {

// sums += unsigned bytes * signed bytes, four products a lane; as an instruction, since GCC 12 copies the sums around its own
// intrinsic.
SALCR_VNNI_INLINE void add_products(__m512i& sums, __m512i unsigned_bytes, __m512i signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
}

SALCR_VNNI_INLINE __m512i broadcast_four(const void* bytes) {
  std::int32_t four;
  __builtin_memcpy(&four, bytes, 4);
  return _mm512_set1_epi32(four);
}

}  // namespace
}  // namespace salcr
#endif
