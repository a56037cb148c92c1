// Rows of x to int8: the largest magnitude, then whole numbers of steps, and their sums over each piece.
#ifndef EFFICIENT_QUANTIZED_MATMUL_INT8_ROUND_H_
#define EFFICIENT_QUANTIZED_MATMUL_INT8_ROUND_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "int8_problem.h"

namespace efficient {

// The largest magnitude of a row, as bits: of what is not finite, at least those of infinity.
EFFICIENT_CLONES inline uint32_t TopAny(const float* x, int64_t count) {
  uint32_t top = 0;
  for (int64_t k = 0; k < count; ++k) {
    uint32_t bits;
    std::memcpy(&bits, x + k, 4);
    top = std::max(top, bits & 0x7FFFFFFFu);
  }
  return top;
}

// One piece of a row in steps of 1 / by; the sum of its numbers.
inline int32_t RoundAny(const float* x, int64_t count, float by, int8_t* out) {
  int32_t sum = 0;
  for (int64_t k = 0; k < count; ++k) {
    float near = std::nearbyintf(x[k] * by);
    near = near < -127.0f ? -127.0f : near > 127.0f ? 127.0f : near;
    out[k] = static_cast<int8_t>(near);
    sum += out[k];
  }
  return sum;
}

#if EFFICIENT_X86

EFFICIENT_AVX512 inline uint32_t Top512(const float* x, int64_t count) {
  const __m512i size = _mm512_set1_epi32(0x7FFFFFFF);
  __m512i tops[4];
  for (int i = 0; i < 4; ++i) tops[i] = _mm512_setzero_si512();
  int64_t k = 0;
  for (; k + 64 <= count; k += 64)
    for (int i = 0; i < 4; ++i)
      tops[i] = _mm512_max_epu32(tops[i], _mm512_and_si512(_mm512_loadu_si512(x + k + 16 * i), size));
  for (; k < count; k += 16) {
    const __mmask16 mask = count - k >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (count - k)) - 1);
    tops[0] = _mm512_max_epu32(tops[0], _mm512_and_si512(_mm512_maskz_loadu_epi32(mask, x + k), size));
  }
  return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(tops[0], tops[1]),
                                                  _mm512_max_epu32(tops[2], tops[3])));
}

EFFICIENT_AVX512 inline int32_t Round512(const float* x, int64_t count, float by, int8_t* out) {
  const __m512 factor = _mm512_set1_ps(by), most = _mm512_set1_ps(127.0f), least = _mm512_set1_ps(-127.0f);
  __m512i sum = _mm512_setzero_si512();
  for (int64_t k = 0; k < count; k += 16) {
    const __mmask16 mask = count - k >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (count - k)) - 1);
    const __m512 near = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + k), factor);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_max_ps(_mm512_min_ps(near, most), least));  // half to even
    sum = _mm512_add_epi32(sum, whole);
    _mm512_mask_cvtepi32_storeu_epi8(out + k, mask, whole);
  }
  return _mm512_reduce_add_epi32(sum);
}

#endif  // EFFICIENT_X86

inline uint32_t Top(const float* x, int64_t count, bool wide) {
#if EFFICIENT_X86
  if (wide) return Top512(x, count);
#endif
  return TopAny(x, count);
}

// The step of a row: its own, or `fixed`; and 1 / it. Where the largest magnitude is not finite, or the step is no
// positive normal number, nan.
inline float StepOf(uint32_t top_bits, const float* fixed, float* by) {
  float top;
  std::memcpy(&top, &top_bits, 4);
  const float step = fixed ? *fixed : std::max(top * (1.0f / 127.0f), std::numeric_limits<float>::min());
  const bool sound = top_bits < 0x7F800000u && step >= std::numeric_limits<float>::min() &&
                     step <= std::numeric_limits<float>::max();
  *by = 1.0f / step;
  return sound ? step : std::numeric_limits<float>::quiet_NaN();
}

// Row m in steps; where there is none its numbers stay 0.
inline void RoundRow(Problem& p, int64_t m, uint32_t top_bits, const float* fixed, bool wide) {
  float by;
  p.steps[m] = StepOf(top_bits, fixed, &by);
  if (std::isnan(p.steps[m])) return;
  int8_t* values = reinterpret_cast<int8_t*>(p.values.data() + m * p.quads);
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    const float* x = p.x + m * p.k + piece.k0;
    int32_t sum = 0;
#if EFFICIENT_X86
    if (wide) {
      sum = Round512(x, piece.k1 - piece.k0, by, values + 4 * piece.quad);
    } else
#endif
      sum = RoundAny(x, piece.k1 - piece.k0, by, values + 4 * piece.quad);
    p.sums[m * p.pieces.size() + i] = static_cast<float>(sum);
  }
}

}  // namespace efficient

#endif  // EFFICIENT_QUANTIZED_MATMUL_INT8_ROUND_H_
