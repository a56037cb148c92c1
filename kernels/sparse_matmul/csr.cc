// y = x W on the CPU, W in compressed rows (a line a row of W) or columns (a line a column).
//
//   x         float32 [M, K]
//   values    float32 [kept]
//   indices   unsigned [kept]        place in the line, ascending
//   pointers  unsigned [lines + 1]   where each line begins
//   y         float32 [M, N]
//
// Few rows of x meet one weight at a time; many are turned, so that a weight meets 16 rows at once.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "instructions.h"
#include "lines.h"
#include "panel.h"
#include "parallel.h"
#include "poison.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using efficient::kWide;

struct Problem {
  const float* x;
  const float* values;
  std::vector<int64_t> bounds;
  float* y;
  int64_t m, k, n;
};

// The part of a row's entries whose columns are n0 to n1.
template <typename Index>
inline void Part(const Index* indices, int64_t n0, int64_t n1, int64_t* from, int64_t* to) {
  const Index* begin = indices + *from;
  const Index* end = indices + *to;
  if (n0 > 0) begin = std::lower_bound(begin, end, n0, [](Index a, int64_t b) { return int64_t{a} < b; });
  end = std::lower_bound(begin, end, n1, [](Index a, int64_t b) { return int64_t{a} < b; });
  *from = begin - indices, *to = end - indices;
}

// Compressed rows, one row of x: columns n0 to n1 of y.
template <typename Index>
void RowsOne(const Problem& p, const Index* indices, int64_t m, int64_t n0, int64_t n1) {
  float* y = p.y + m * p.n;
  std::memset(y + n0, 0, (n1 - n0) * sizeof(float));
  for (int64_t k = 0; k < p.k; ++k) {
    int64_t from = p.bounds[k], to = p.bounds[k + 1];
    Part(indices, n0, n1, &from, &to);
    const float value = p.x[m * p.k + k];
    for (int64_t i = from; i < to; ++i) {
      const int64_t n = indices[i];
      if (n >= n0 && n < n1) y[n] += value * p.values[i];  // holds wherever indices ascend
    }
  }
}

// Compressed columns, one row of x.
template <typename Index>
void ColumnsOne(const Problem& p, const Index* indices, int64_t m, int64_t n0, int64_t n1) {
  const float* x = p.x + m * p.k;
  for (int64_t n = n0; n < n1; ++n) {
    float sums[4] = {};
    int64_t i = p.bounds[n];
    const int64_t end = p.bounds[n + 1];
    for (; i + 4 <= end; i += 4)
      for (int j = 0; j < 4; ++j) {
        const int64_t k = indices[i + j];
        if (k < p.k) sums[j] += p.values[i + j] * x[k];
      }
    for (; i < end; ++i)
      if (int64_t{indices[i]} < p.k) sums[0] += p.values[i] * x[indices[i]];
    p.y[m * p.n + n] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
}

#if EFFICIENT_X86

template <typename Index>
EFFICIENT_AVX512 inline __m512i Sixteen(const Index* from, __mmask16 mask) {
  if (sizeof(Index) == 1) return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, from));
  if (sizeof(Index) == 2) return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  return _mm512_maskz_loadu_epi32(mask, from);
}

// RowsOne: 16 entries of a row at once, whose places differ.
template <typename Index>
EFFICIENT_AVX512 void RowsOne512(const Problem& p, const Index* indices, int64_t m, int64_t n0, int64_t n1) {
  float* y = p.y + m * p.n;
  std::memset(y + n0, 0, (n1 - n0) * sizeof(float));
  const __m512i low = _mm512_set1_epi32(static_cast<int32_t>(n0)), high = _mm512_set1_epi32(static_cast<int32_t>(n1));
  const bool whole = n0 == 0 && n1 == p.n;
  for (int64_t k = 0; k < p.k; ++k) {
    int64_t from = p.bounds[k], to = p.bounds[k + 1];
    if (!whole) Part(indices, n0, n1, &from, &to);
    const __m512 value = _mm512_set1_ps(p.x[m * p.k + k]);
    for (int64_t i = from; i < to; i += 16) {
      const __mmask16 there = to - i >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (to - i)) - 1);
      const __m512i own = Sixteen(indices + i, there);
      __mmask16 mask = _mm512_mask_cmplt_epu32_mask(there, own, high);
      mask = _mm512_mask_cmpge_epu32_mask(mask, own, low);
      const __m512 sums = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, own, y, 4);
      const __m512 more = _mm512_fmadd_ps(value, _mm512_maskz_loadu_ps(mask, p.values + i), sums);
      _mm512_mask_i32scatter_ps(y, mask, own, more, 4);
    }
  }
}

template <typename Index>
EFFICIENT_AVX512 void ColumnsOne512(const Problem& p, const Index* indices, int64_t m, int64_t n0, int64_t n1) {
  const float* x = p.x + m * p.k;
  const __m512i limit = _mm512_set1_epi32(static_cast<int32_t>(p.k));
  for (int64_t n = n0; n < n1; ++n) {
    __m512 sums = _mm512_setzero_ps();
    const int64_t end = p.bounds[n + 1];
    for (int64_t i = p.bounds[n]; i < end; i += 16) {
      const __mmask16 there = end - i >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (end - i)) - 1);
      const __m512i own = Sixteen(indices + i, there);
      const __mmask16 mask = _mm512_mask_cmplt_epu32_mask(there, own, limit);
      const __m512 met = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, own, x, 4);
      sums = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, p.values + i), met, sums);
    }
    p.y[m * p.n + n] = _mm512_reduce_add_ps(sums);
  }
}

#endif  // EFFICIENT_X86

// Columns n0 to n1 of 16 rows, from turned x into turned y [n1 - n0][16].
template <typename Index>
EFFICIENT_CLONES void PanelAny(const Problem& p, const Index* indices, bool by_row, const float* x, int64_t n0,
                               int64_t n1, float* y) {
  const int64_t first = by_row ? 0 : n0, last = by_row ? p.k : n1, limit = by_row ? p.n : p.k;
  for (int64_t line = first; line < last; ++line) {
    int64_t from = p.bounds[line], to = p.bounds[line + 1];
    if (by_row) Part(indices, n0, n1, &from, &to);
    for (int64_t i = from; i < to; ++i) {
      const int64_t place = indices[i];
      if (place >= limit || (by_row && (place < n0 || place >= n1))) continue;
      const float* in = x + (by_row ? line : place) * kWide;
      float* out = y + ((by_row ? place : line) - n0) * kWide;
      for (int64_t r = 0; r < kWide; ++r) out[r] += p.values[i] * in[r];
    }
  }
}

#if EFFICIENT_X86

template <typename Index>
EFFICIENT_AVX512 void Panel512(const Problem& p, const Index* indices, bool by_row, const float* x, int64_t n0,
                               int64_t n1, float* y) {
  if (by_row) {
    for (int64_t k = 0; k < p.k; ++k) {
      int64_t from = p.bounds[k], to = p.bounds[k + 1];
      Part(indices, n0, n1, &from, &to);
      const __m512 in = _mm512_loadu_ps(x + k * kWide);
      for (int64_t i = from; i < to; ++i) {
        const int64_t n = indices[i];
        if (n < n0 || n >= n1) continue;
        float* out = y + (n - n0) * kWide;
        _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_set1_ps(p.values[i]), in, _mm512_loadu_ps(out)));
      }
    }
    return;
  }
  for (int64_t n = n0; n < n1; ++n) {
    __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
    int64_t i = p.bounds[n];
    const int64_t end = p.bounds[n + 1];
    for (; i + 2 <= end; i += 2) {
      const int64_t a = indices[i], b = indices[i + 1];
      if (a < p.k) even = _mm512_fmadd_ps(_mm512_set1_ps(p.values[i]), _mm512_loadu_ps(x + a * kWide), even);
      if (b < p.k) odd = _mm512_fmadd_ps(_mm512_set1_ps(p.values[i + 1]), _mm512_loadu_ps(x + b * kWide), odd);
    }
    if (i < end && int64_t{indices[i]} < p.k)
      even = _mm512_fmadd_ps(_mm512_set1_ps(p.values[i]), _mm512_loadu_ps(x + indices[i] * kWide), even);
    _mm512_storeu_ps(y + (n - n0) * kWide, _mm512_add_ps(even, odd));
  }
}

#endif  // EFFICIENT_X86

template <typename Index>
void Multiply(const Problem& p, const Index* indices, bool by_row, bool wide, int64_t kept, ffi::ThreadPool& pool) {
  // Rows are searched for each strip, so that more of them than threads cost time.
  const int64_t wanted = by_row ? (kept > 1 << 16 ? pool.num_threads() : 1) : 4 * pool.num_threads();
  const int64_t strip = std::max<int64_t>(64, (p.n + wanted - 1) / wanted), strips = (p.n + strip - 1) / strip;
  if (p.m < 4) {
    efficient::ParallelFor(pool, strips * p.m, 4 * p.m * kept, [&](int64_t i) {
      const int64_t m = i / strips, n0 = i % strips * strip, n1 = std::min(p.n, n0 + strip);
#if EFFICIENT_X86
      if (wide && by_row) return RowsOne512(p, indices, m, n0, n1);
      if (wide) return ColumnsOne512(p, indices, m, n0, n1);
#endif
      if (by_row) return RowsOne(p, indices, m, n0, n1);
      ColumnsOne(p, indices, m, n0, n1);
    });
    return;
  }
  for (int64_t m0 = 0; m0 < p.m; m0 += kWide) {
    const std::vector<float> x = efficient::Turned(p.x, p.m, p.k, m0);
    efficient::ParallelFor(pool, strips, kWide * kept, [&](int64_t i) {
      const int64_t n0 = i * strip, n1 = std::min(p.n, n0 + strip);
      std::vector<float> y((n1 - n0) * kWide, 0.0f);
#if EFFICIENT_X86
      if (wide) {
        Panel512(p, indices, by_row, x.data(), n0, n1, y.data());
      } else {
        PanelAny(p, indices, by_row, x.data(), n0, n1, y.data());
      }
#else
      PanelAny(p, indices, by_row, x.data(), n0, n1, y.data());
#endif
      efficient::TurnBack(y.data(), p.m, p.n, m0, n0, n1, p.y);
    });
  }
}

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> values, ffi::AnyBuffer indices,
               ffi::AnyBuffer pointers, ffi::ResultBuffer<ffi::F32> y, bool by_row, int64_t tier) {
  efficient::Poison(y);
  const auto dx = x.dimensions(), dv = values.dimensions(), dy = y->dimensions();
  const auto di = indices.dimensions(), dp = pointers.dimensions();
  if (dx.size() != 2 || dv.size() != 1 || dy.size() != 2 || di.size() != 1 || dp.size() != 1 || dy[0] != dx[0])
    return ffi::Error::InvalidArgument("csr_matmul: numbers of axes must be 2, 1, 1, 1 and 2");
  Problem p{};
  p.m = dx[0], p.k = dx[1], p.n = dy[1];
  const int64_t kept = dv[0];
  if (di[0] != kept || dp[0] != (by_row ? p.k : p.n) + 1 || std::max(p.k, p.n) >= (int64_t{1} << 31))
    return ffi::Error::InvalidArgument("csr_matmul: an index a value, and a pointer a line and one");
  p.x = x.typed_data(), p.values = values.typed_data(), p.y = y->typed_data();
  bool wide = false;
#if EFFICIENT_X86
  wide = efficient::HasAvx512() && tier != 1;
#endif
  bool sound = efficient::WithIndices(
      pointers, [&](const auto* data) { p.bounds = efficient::Bounds(data, dp[0] - 1, kept); });
  sound = sound && efficient::WithIndices(indices, [&](const auto* data) {
    if (p.m > 0 && p.n > 0) Multiply(p, data, by_row, wide, kept, pool);
  });
  return sound ? ffi::Error::Success()
               : ffi::Error::InvalidArgument("csr_matmul: indices and pointers must be unsigned integers");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientCsrMatmul, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<bool>("by_row")
                                  .Attr<int64_t>("tier"));
