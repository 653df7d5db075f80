// A portable build compiles what is marked SALCR_FOR_EACH_ISA, and all that it calls in the same file, three times: for AVX-512,
// for AVX2 with FMA and for any x86-64; which one runs is settled as the extension is loaded. Code that exists for AVX-512 alone
// is marked SALCR_FOR_AVX512 and called only if __builtin_cpu_supports("x86-64-v4"). Other compilers and processors have one code
// for all. No exception may leave a function of the first kind: GCC takes it that none does, and the process would end.
#pragma once

#if defined(SALCR_PORTABLE) && defined(__x86_64__) && defined(__linux__) && __GNUC__ >= 12 && !defined(__clang__)
#define SALCR_FOR_EACH_ISA [[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), gnu::flatten]]
#define SALCR_FOR_AVX512 [[gnu::target("arch=x86-64-v4"), gnu::flatten]]
#else
#define SALCR_FOR_EACH_ISA
#endif
