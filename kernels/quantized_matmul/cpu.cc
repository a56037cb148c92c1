// y = x W on the CPU, W as packed codes: decoded in registers where few rows are multiplied, and into a tile
// that stays in cache where many are.
//
//   x      float32 [M, K]
//   codes  uint8 [K, P]   4 bits: two a byte, the first lowest, P = ceil(N / 2); 8 bits: P = N
//   table  float32 [16 or 256]   the number of each code
//   scale  float32 [G, N or 1]   of each run of `group` rows; G = ceil(K / group)
//   shift  float32 [G, N or 1]   taken off each number before the scale; or [0, 0]
//   y      float32 [M, N]
//
// W[k, n] = (table[code] - shift[g, n]) scale[g, n], g = k / group.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "arguments.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

struct Problem : efficient::Sizes {
  const float* x;
  const uint8_t* codes;
  const float* table;
  const float* scale;
  const float* shift;  // nullptr: none
  float* y;
  int bits;
};

constexpr int64_t kColumns = 64;   // of a tile
constexpr int64_t kRows = 128;     // of a tile
constexpr int64_t kChunk = 96;     // rows of x that one task multiplies with a tile

// The numbers of `columns` columns from n0, of rows k0 to k1, scaled, into tile[row][kColumns].
template <typename Code>
inline void DecodeRows(const Problem& p, int64_t k0, int64_t k1, int64_t n0, int64_t columns, float* tile,
                       Code code) {
  for (int64_t k = k0; k < k1; ++k) {
    const int64_t g = k / p.group;
    const float* scale = p.scale + g * (p.scale_stride ? p.n : 1);
    const float* shift = p.shift ? p.shift + g * (p.shift_stride ? p.n : 1) : nullptr;
    float* row = tile + (k - k0) * kColumns;
    const uint8_t* codes = p.codes + k * p.pitch;
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t n = n0 + j;
      float number = p.table[code(codes, n)];
      if (shift) number -= shift[p.shift_stride ? n : 0];
      row[j] = number * scale[p.scale_stride ? n : 0];
    }
    for (int64_t j = columns; j < kColumns; ++j) row[j] = 0.0f;
  }
}

inline void Decode(const Problem& p, int64_t k0, int64_t k1, int64_t n0, int64_t columns, float* tile) {
  if (p.bits == 4) {
    DecodeRows(p, k0, k1, n0, columns, tile,
               [](const uint8_t* c, int64_t n) { return (c[n / 2] >> (4 * (n % 2))) & 15; });
  } else {
    DecodeRows(p, k0, k1, n0, columns, tile, [](const uint8_t* c, int64_t n) { return int{c[n]}; });
  }
}

// acc[r][kColumns] += x[m0 + r, k0..k1] tile, for r < rows.
#if EFFICIENT_X86 && !defined(__clang__)
__attribute__((target_clones("avx2", "default")))
#endif
void MultiplyAny(const Problem& p, int64_t m0, int64_t rows, int64_t k0, int64_t k1, const float* tile,
                 float* acc) {
  for (int64_t r = 0; r < rows; ++r) {
    const float* x = p.x + (m0 + r) * p.k;
    float* sums = acc + r * kColumns;
    for (int64_t k = k0; k < k1; ++k) {
      const float value = x[k];
      const float* row = tile + (k - k0) * kColumns;
      for (int64_t j = 0; j < kColumns; ++j) sums[j] += value * row[j];
    }
  }
}

#if EFFICIENT_X86

#define EFFICIENT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))

bool HasAvx512() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return has;
}

template <int R>
EFFICIENT_AVX512 inline void MultiplyRows(const Problem& p, int64_t m0, int64_t k0, int64_t k1,
                                          const float* tile, float* acc) {
  __m512 sums[R][4];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_loadu_ps(acc + r * kColumns + 16 * c);
  for (int64_t k = k0; k < k1; ++k) {
    const float* row = tile + (k - k0) * kColumns;
    const __m512 w0 = _mm512_loadu_ps(row), w1 = _mm512_loadu_ps(row + 16);
    const __m512 w2 = _mm512_loadu_ps(row + 32), w3 = _mm512_loadu_ps(row + 48);
    for (int r = 0; r < R; ++r) {
      const __m512 value = _mm512_set1_ps(p.x[(m0 + r) * p.k + k]);
      sums[r][0] = _mm512_fmadd_ps(value, w0, sums[r][0]);
      sums[r][1] = _mm512_fmadd_ps(value, w1, sums[r][1]);
      sums[r][2] = _mm512_fmadd_ps(value, w2, sums[r][2]);
      sums[r][3] = _mm512_fmadd_ps(value, w3, sums[r][3]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 4; ++c) _mm512_storeu_ps(acc + r * kColumns + 16 * c, sums[r][c]);
}

EFFICIENT_AVX512 void Multiply512(const Problem& p, int64_t m0, int64_t rows, int64_t k0, int64_t k1,
                                  const float* tile, float* acc) {
  int64_t r = 0;
  for (; r + 6 <= rows; r += 6) MultiplyRows<6>(p, m0 + r, k0, k1, tile, acc + r * kColumns);
  for (; r < rows; ++r) MultiplyRows<1>(p, m0 + r, k0, k1, tile, acc + r * kColumns);
}

// Even and odd columns of 32, in two registers, to two registers in order; and back.
EFFICIENT_AVX512 inline void InOrder(__m512 even, __m512 odd, __m512* first, __m512* second) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  *first = _mm512_permutex2var_ps(even, low, odd);
  *second = _mm512_permutex2var_ps(even, high, odd);
}

// Decode, for all 64 columns of a tile.
EFFICIENT_AVX512 void Decode512(const Problem& p, int64_t k0, int64_t k1, int64_t n0, float* tile) {
  const __m512 table = _mm512_loadu_ps(p.table);  // of 4-bit codes all
  for (int64_t k = k0; k < k1; ++k) {
    const int64_t g = k / p.group;
    const float* scale = p.scale + g * (p.scale_stride ? p.n : 1);
    const float* shift = p.shift ? p.shift + g * (p.shift_stride ? p.n : 1) : nullptr;
    float* row = tile + (k - k0) * kColumns;
    __m512 numbers[4];
    if (p.bits == 4) {
      const uint8_t* codes = p.codes + k * p.pitch + n0 / 2;
      for (int c = 0; c < 2; ++c) {
        const __m512i pair =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * c)));
        InOrder(_mm512_permutexvar_ps(pair, table),
                _mm512_permutexvar_ps(_mm512_srli_epi32(pair, 4), table), &numbers[2 * c],
                &numbers[2 * c + 1]);
      }
    } else {
      const uint8_t* codes = p.codes + k * p.pitch + n0;
      for (int c = 0; c < 4; ++c) {
        const __m512i own =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + 16 * c)));
        numbers[c] = _mm512_i32gather_ps(own, p.table, 4);
      }
    }
    for (int c = 0; c < 4; ++c) {
      const int64_t n = n0 + 16 * c;
      if (shift)
        numbers[c] = _mm512_sub_ps(numbers[c], p.shift_stride ? _mm512_loadu_ps(shift + n)
                                                              : _mm512_set1_ps(shift[0]));
      const __m512 by = p.scale_stride ? _mm512_loadu_ps(scale + n) : _mm512_set1_ps(scale[0]);
      _mm512_storeu_ps(row + 16 * c, _mm512_mul_ps(numbers[c], by));
    }
  }
}

// Few rows, 4 bits: y[m0.., n0 .. n0 + 128] of R rows; all 128 columns are there.
template <int R>
EFFICIENT_AVX512 void FewRows4(const Problem& p, int64_t m0, int64_t n0, const float* x_sums) {
  const __m512 table = _mm512_loadu_ps(p.table);
  float totals[R][128];
  std::memset(totals, 0, sizeof(totals));
  const int64_t groups = (p.k + p.group - 1) / p.group;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t k1 = std::min(p.k, (g + 1) * p.group);
    __m512 sums[R][8];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < 8; ++c) sums[r][c] = _mm512_setzero_ps();
    for (int64_t k = g * p.group; k < k1; ++k) {
      const uint8_t* row = p.codes + k * p.pitch + n0 / 2;
      _mm_prefetch(reinterpret_cast<const char*>(row + 24 * p.pitch), _MM_HINT_T0);
      __m512 values[R];
      for (int r = 0; r < R; ++r) values[r] = _mm512_set1_ps(p.x[(m0 + r) * p.k + k]);
      for (int c = 0; c < 4; ++c) {
        const __m512i pair =
            _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 16 * c)));
        const __m512 even = _mm512_permutexvar_ps(pair, table);  // looks at the lowest 4 bits alone
        const __m512 odd = _mm512_permutexvar_ps(_mm512_srli_epi32(pair, 4), table);
        for (int r = 0; r < R; ++r) {
          sums[r][2 * c] = _mm512_fmadd_ps(values[r], even, sums[r][2 * c]);
          sums[r][2 * c + 1] = _mm512_fmadd_ps(values[r], odd, sums[r][2 * c + 1]);
        }
      }
    }
    for (int c = 0; c < 4; ++c) {
      for (int half = 0; half < 2; ++half) {
        const int64_t n = n0 + 32 * c + 16 * half;
        const __m512 scale = p.scale_stride ? _mm512_loadu_ps(p.scale + g * p.n + n)
                                            : _mm512_set1_ps(p.scale[g]);
        for (int r = 0; r < R; ++r) {
          __m512 parts[2];
          InOrder(sums[r][2 * c], sums[r][2 * c + 1], &parts[0], &parts[1]);
          __m512 part = parts[half];
          if (p.shift) {
            const __m512 shift = p.shift_stride ? _mm512_loadu_ps(p.shift + g * p.n + n)
                                                : _mm512_set1_ps(p.shift[g]);
            part = _mm512_fnmadd_ps(shift, _mm512_set1_ps(x_sums[(m0 + r) * groups + g]), part);
          }
          float* total = &totals[r][32 * c + 16 * half];
          _mm512_storeu_ps(total, _mm512_fmadd_ps(part, scale, _mm512_loadu_ps(total)));
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) std::memcpy(p.y + (m0 + r) * p.n + n0, totals[r], sizeof(totals[r]));
}

#endif  // EFFICIENT_X86

// Columns n0 to n1 of rows m0 to m1, through a tile.
void Tiled(const Problem& p, int64_t m0, int64_t m1, int64_t n0, int64_t n1, bool wide) {
  std::vector<float> tile(kRows * kColumns), acc((m1 - m0) * kColumns, 0.0f);
  for (int64_t k0 = 0; k0 < p.k; k0 += kRows) {
    const int64_t k1 = std::min(p.k, k0 + kRows);
#if EFFICIENT_X86
    if (wide) {
      if (n1 - n0 == kColumns) {
        Decode512(p, k0, k1, n0, tile.data());
      } else {
        Decode(p, k0, k1, n0, n1 - n0, tile.data());
      }
      Multiply512(p, m0, m1 - m0, k0, k1, tile.data(), acc.data());
      continue;
    }
#endif
    Decode(p, k0, k1, n0, n1 - n0, tile.data());
    MultiplyAny(p, m0, m1 - m0, k0, k1, tile.data(), acc.data());
  }
  for (int64_t m = m0; m < m1; ++m)
    std::memcpy(p.y + m * p.n + n0, acc.data() + (m - m0) * kColumns, sizeof(float) * (n1 - n0));
}

// Sums of x over each run of rows: what a shift is multiplied with.
std::vector<float> RunSums(const Problem& p) {
  const int64_t groups = (p.k + p.group - 1) / p.group;
  std::vector<float> sums(p.m * groups, 0.0f);
  for (int64_t m = 0; m < p.m; ++m)
    for (int64_t k = 0; k < p.k; ++k) sums[m * groups + k / p.group] += p.x[m * p.k + k];
  return sums;
}

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::U8> codes,
               ffi::Buffer<ffi::F32> table, ffi::Buffer<ffi::F32> scale, ffi::Buffer<ffi::F32> shift,
               ffi::ResultBuffer<ffi::F32> y, int64_t bits, int64_t group, int64_t tier) {
  Problem p{};
  const std::string broken = efficient::Checked(x, codes, scale, shift, *y, bits, group, &p);
  if (!broken.empty()) return ffi::Error::InvalidArgument("quantized_matmul: " + broken);
  if (static_cast<int64_t>(table.element_count()) != (bits == 4 ? 16 : 256))
    return ffi::Error::InvalidArgument("quantized_matmul: table must have a number for each code");
  const bool has_shift = shift.element_count() > 0;
  p.bits = static_cast<int>(bits);
  p.x = x.typed_data(), p.codes = codes.typed_data(), p.table = table.typed_data();
  p.scale = scale.typed_data(), p.shift = has_shift ? shift.typed_data() : nullptr, p.y = y->typed_data();
  if (p.m == 0 || p.n == 0) return ffi::Error::Success();

  bool wide = false;
#if EFFICIENT_X86
  wide = HasAvx512() && tier != 1;
  if (wide && bits == 4 && p.m <= 8 && p.n >= 128) {
    const std::vector<float> sums = has_shift ? RunSums(p) : std::vector<float>();
    const int64_t blocks = p.n / 128;
    efficient::ParallelFor(pool, blocks, p.m * p.n * p.k, [&](int64_t b) {
      int64_t m = 0;
      for (; m + 2 <= p.m; m += 2) FewRows4<2>(p, m, 128 * b, sums.data());
      if (m < p.m) FewRows4<1>(p, m, 128 * b, sums.data());
    });
    for (int64_t n = 128 * blocks; n < p.n; n += kColumns) Tiled(p, 0, p.m, n, std::min(p.n, n + kColumns), true);
    return ffi::Error::Success();
  }
#endif
  const int64_t across = (p.n + kColumns - 1) / kColumns, down = (p.m + kChunk - 1) / kChunk;
  efficient::ParallelFor(pool, across * down, p.m * p.n * p.k, [&](int64_t i) {
    const int64_t n0 = (i % across) * kColumns, m0 = (i / across) * kChunk;
    Tiled(p, m0, std::min(p.m, m0 + kChunk), n0, std::min(p.n, n0 + kColumns), wide);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientQuantizedMatmul, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("group")
                                  .Attr<int64_t>("tier"));
