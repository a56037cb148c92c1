// Instructions: which there may be, asked at run time.
#ifndef EFFICIENT_INSTRUCTIONS_H_
#define EFFICIENT_INSTRUCTIONS_H_

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define EFFICIENT_X86 1
#include <immintrin.h>
#endif

// A portable function, compiled for AVX2 too where the compiler can choose between versions when it is called.
#if EFFICIENT_X86 && !defined(__clang__)
#define EFFICIENT_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define EFFICIENT_CLONES
#endif

#if EFFICIENT_X86

#define EFFICIENT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

namespace efficient {

inline bool HasAvx512() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

}  // namespace efficient

#endif  // EFFICIENT_X86

#endif  // EFFICIENT_INSTRUCTIONS_H_
