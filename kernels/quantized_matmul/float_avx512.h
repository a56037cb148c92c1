// A product with x in float32 by AVX-512: codes become numbers in registers.
#ifndef EFFICIENT_QUANTIZED_MATMUL_FLOAT_AVX512_H_
#define EFFICIENT_QUANTIZED_MATMUL_FLOAT_AVX512_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "float_problem.h"

#if EFFICIENT_X86

namespace efficient {

EFFICIENT_AVX512 inline __m128i Bytes(const uint8_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

// Two registers, their numbers taken in turn.
EFFICIENT_AVX512 inline void Interleave(__m512 even, __m512 odd, __m512* first, __m512* second) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  *first = _mm512_permutex2var_ps(even, low, odd);
  *second = _mm512_permutex2var_ps(even, high, odd);
}

// How 16 bytes of a row become numbers: `kRegisters` of 16, which hold every `kRegisters`-th column each.
struct Nibbles {  // 4 bits, a table of 16
  static constexpr int kRegisters = 2;
  __m512 table;
  EFFICIENT_AVX512 explicit Nibbles(const float* numbers) : table(_mm512_loadu_ps(numbers)) {}
  EFFICIENT_AVX512 inline void Numbers(const uint8_t* from, __m512* out) const {
    const __m512i pair = _mm512_cvtepu8_epi32(Bytes(from));
    out[0] = _mm512_permutexvar_ps(pair, table);  // looks at the lowest 4 bits alone
    out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(pair, 4), table);
  }
};

struct Crumbs {  // 2 bits, a table of 4, four times
  static constexpr int kRegisters = 4;
  __m512 table;
  EFFICIENT_AVX512 explicit Crumbs(const float* numbers) : table(_mm512_loadu_ps(numbers)) {}
  EFFICIENT_AVX512 inline void Numbers(const uint8_t* from, __m512* out) const {
    const __m512i four = _mm512_cvtepu8_epi32(Bytes(from));
    out[0] = _mm512_permutexvar_ps(four, table);
    out[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(four, 2), table);
    out[2] = _mm512_permutexvar_ps(_mm512_srli_epi32(four, 4), table);
    out[3] = _mm512_permutexvar_ps(_mm512_srli_epi32(four, 6), table);
  }
};

template <bool IsSigned>
struct Whole {  // 8 bits, whole numbers
  static constexpr int kRegisters = 1;
  EFFICIENT_AVX512 explicit Whole(const float*) {}
  EFFICIENT_AVX512 inline void Numbers(const uint8_t* from, __m512* out) const {
    const __m128i own = Bytes(from);
    out[0] = _mm512_cvtepi32_ps(IsSigned ? _mm512_cvtepi8_epi32(own) : _mm512_cvtepu8_epi32(own));
  }
};

struct Few16 {  // 8 bits, a table of 16
  static constexpr int kRegisters = 1;
  __m512 table;
  EFFICIENT_AVX512 explicit Few16(const float* numbers) : table(_mm512_loadu_ps(numbers)) {}
  EFFICIENT_AVX512 inline void Numbers(const uint8_t* from, __m512* out) const {
    out[0] = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(Bytes(from)), table);
  }
};

struct Any256 {  // 8 bits, a table of 256
  static constexpr int kRegisters = 1;
  const float* table;
  EFFICIENT_AVX512 explicit Any256(const float* numbers) : table(numbers) {}
  EFFICIENT_AVX512 inline void Numbers(const uint8_t* from, __m512* out) const {
    out[0] = _mm512_i32gather_ps(_mm512_cvtepu8_epi32(Bytes(from)), table, 4);
  }
};

// The registers of 16 bytes, in the order of columns.
template <typename Reader>
EFFICIENT_AVX512 inline void InOrder(const __m512* in, __m512* out) {
  if (Reader::kRegisters == 1) {
    out[0] = in[0];
  } else if (Reader::kRegisters == 2) {
    Interleave(in[0], in[1], &out[0], &out[1]);
  } else {
    __m512 even[2], odd[2];
    Interleave(in[0], in[2], &even[0], &even[1]);
    Interleave(in[1], in[3], &odd[0], &odd[1]);
    Interleave(even[0], odd[0], &out[0], &out[1]);
    Interleave(even[1], odd[1], &out[2], &out[3]);
  }
}

// Rows k0 to k1 of the 64 columns from n0 on, scaled, into tile[row][kColumns].
template <typename Reader>
EFFICIENT_AVX512 void Decode512(const FloatProblem& p, const float* table, int64_t k0, int64_t k1, int64_t n0,
                                float* tile) {
  constexpr int U = Reader::kRegisters;
  const Reader reader(table);
  for (int64_t k = k0; k < k1; ++k) {
    const float* scale = p.Scale(k / p.group);
    const float* shift = p.shift ? p.Shift(k / p.group) : nullptr;
    float* row = tile + (k - k0) * kColumns;
    const uint8_t* codes = p.codes + k * p.pitch + n0 * p.bits / 8;
    __m512 numbers[4];
    for (int c = 0; c < 4; c += U) {
      __m512 apart[U];
      reader.Numbers(codes + 16 * (c / U), apart);
      InOrder<Reader>(apart, numbers + c);
    }
    for (int c = 0; c < 4; ++c) {
      const int64_t n = n0 + 16 * c;
      if (shift)
        numbers[c] = _mm512_sub_ps(numbers[c], p.shift_stride ? _mm512_loadu_ps(shift + n) : _mm512_set1_ps(shift[0]));
      const __m512 by = p.scale_stride ? _mm512_loadu_ps(scale + n) : _mm512_set1_ps(scale[0]);
      _mm512_storeu_ps(row + 16 * c, _mm512_mul_ps(numbers[c], by));
    }
  }
}

// y[m0.., n0 .. n0 + 128] of R rows; all 128 columns are there. `x_sums` are sums of x over each run of rows.
template <typename Reader, int R>
EFFICIENT_AVX512 void FewRows(const FloatProblem& p, const float* table, int64_t m0, int64_t n0,
                              const float* x_sums) {
  constexpr int U = Reader::kRegisters;
  const Reader reader(table);
  float totals[R][128];
  std::memset(totals, 0, sizeof(totals));
  const int64_t runs = (p.k + p.group - 1) / p.group;
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t k1 = std::min(p.k, (run + 1) * p.group);
    __m512 sums[R][8];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < 8; ++c) sums[r][c] = _mm512_setzero_ps();
    for (int64_t k = run * p.group; k < k1; ++k) {
      const uint8_t* row = p.codes + k * p.pitch + n0 * p.bits / 8;
      for (int line = 0; line < 128 / U; line += 64)
        _mm_prefetch(reinterpret_cast<const char*>(row + 24 * p.pitch + line), _MM_HINT_T0);
      __m512 values[R];
      for (int r = 0; r < R; ++r) values[r] = _mm512_set1_ps(p.x[(m0 + r) * p.k + k]);
      for (int c = 0; c < 8; c += U) {
        __m512 numbers[U];
        reader.Numbers(row + 16 * (c / U), numbers);
        for (int r = 0; r < R; ++r)
          for (int u = 0; u < U; ++u) sums[r][c + u] = _mm512_fmadd_ps(values[r], numbers[u], sums[r][c + u]);
      }
    }
    for (int c = 0; c < 8; c += U) {
      for (int r = 0; r < R; ++r) {
        __m512 parts[U];
        InOrder<Reader>(sums[r] + c, parts);
        for (int u = 0; u < U; ++u) {
          const int64_t n = n0 + 16 * (c + u);
          if (p.shift) {
            const float* shift = p.Shift(run);
            const __m512 off = p.shift_stride ? _mm512_loadu_ps(shift + n) : _mm512_set1_ps(shift[0]);
            parts[u] = _mm512_fnmadd_ps(off, _mm512_set1_ps(x_sums[(m0 + r) * runs + run]), parts[u]);
          }
          const float* scale = p.Scale(run);
          const __m512 by = p.scale_stride ? _mm512_loadu_ps(scale + n) : _mm512_set1_ps(scale[0]);
          float* total = &totals[r][16 * (c + u)];
          _mm512_storeu_ps(total, _mm512_fmadd_ps(parts[u], by, _mm512_loadu_ps(total)));
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) std::memcpy(p.y + (m0 + r) * p.n + n0, totals[r], sizeof(totals[r]));
}

}  // namespace efficient

#endif  // EFFICIENT_X86

#endif  // EFFICIENT_QUANTIZED_MATMUL_FLOAT_AVX512_H_
