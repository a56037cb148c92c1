// Plane: of every byte of some, the code at one place, as numbers.
#ifndef EFFICIENT_PLANE_H_
#define EFFICIENT_PLANE_H_

#include <cstdint>

#include "instructions.h"

namespace efficient {

// The number of a code of a byte, its place in bits; two's complement or not.
template <int Bits, bool Signed>
inline __attribute__((always_inline)) float Number(uint8_t byte, int place) {
  if constexpr (Bits == 8 && Signed) return static_cast<float>(static_cast<int8_t>(byte));
  const int32_t code = (static_cast<int32_t>(byte) >> place) & ((1 << Bits) - 1);
  if constexpr (Signed) return static_cast<float>((code ^ (1 << (Bits - 1))) - (1 << (Bits - 1)));
  return static_cast<float>(code);
}

// to[j] = (number of codes[j] - less) * by.
template <int Bits, bool Signed>
inline __attribute__((always_inline)) void PlaneAny(const uint8_t* codes, int64_t count, int place, float by, float less,
                                                    float* __restrict to) {
  for (int64_t j = 0; j < count; ++j) to[j] = (Number<Bits, Signed>(codes[j], place) - less) * by;
}

#if EFFICIENT_X86

template <int Bits, bool Signed>
EFFICIENT_AVX512 inline void Plane512(const uint8_t* codes, int64_t count, int place, float by, float less, float* to) {
  const __m512i low = _mm512_set1_epi32((1 << Bits) - 1), half = _mm512_set1_epi32(1 << (Bits - 1));
  const __m128i shift = _mm_cvtsi32_si128(place);
  const __m512 scale = _mm512_set1_ps(by), off = _mm512_set1_ps(less);
  for (int64_t j = 0; j < count; j += 16) {
    const __mmask16 there = count - j >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (count - j)) - 1);
    __m512i code = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(there, codes + j));
    if (Bits < 8) code = _mm512_and_si512(_mm512_srl_epi32(code, shift), low);
    if (Signed) code = _mm512_sub_epi32(_mm512_xor_si512(code, half), half);
    _mm512_mask_storeu_ps(to + j, there, _mm512_mul_ps(_mm512_sub_ps(_mm512_cvtepi32_ps(code), off), scale));
  }
}

#endif  // EFFICIENT_X86

}  // namespace efficient

#endif  // EFFICIENT_PLANE_H_
