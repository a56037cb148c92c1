// y = x W on the CPU, W as the blocks that are present, row of blocks by row of blocks.
//
//   x         float32 [M, K]
//   values    float32 [kept, height, width]
//   columns   unsigned [kept]       column of blocks, ascending in each row of blocks
//   pointers  unsigned [rows + 1]   where each row of blocks begins; rows = ceil(K / height)
//   y         float32 [M, N]
//
// Blocks at the edge may reach beyond W; what lies there is not read. An absent block meets nothing.

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

struct Problem {
  const float* x;
  const float* values;
  std::vector<int32_t> columns;
  std::vector<int64_t> bounds;
  float* y;
  int64_t m, k, n, height, width, rows;
};

// y[m0 + r][n0..] += x[m0 + r][k0..] block, `depth` rows of which count, columns lo to hi.
EFFICIENT_CLONES
void MeetAny(const Problem& p, int64_t m0, int64_t m1, int64_t k0, int64_t depth, const float* block, int64_t n0,
             int64_t lo, int64_t hi) {
  for (int64_t m = m0; m < m1; ++m) {
    float* y = p.y + m * p.n + n0;
    for (int64_t h = 0; h < depth; ++h) {
      const float value = p.x[m * p.k + k0 + h];
      for (int64_t w = lo; w < hi; ++w) y[w] += value * block[h * p.width + w];
    }
  }
}

#if EFFICIENT_X86

// A narrow block and 16 rows of turned x: columns lo to hi of turned y, which begins at the block's first.
EFFICIENT_AVX512 void Narrow512(const float* x, const float* block, int64_t width, int64_t depth, int64_t lo, int64_t hi,
                                float* y) {
  for (int64_t w = lo; w < hi; ++w) {
    __m512 sums = _mm512_loadu_ps(y + w * efficient::kWide);
    for (int64_t h = 0; h < depth; ++h)
      sums = _mm512_fmadd_ps(_mm512_set1_ps(block[h * width + w]), _mm512_loadu_ps(x + h * efficient::kWide), sums);
    _mm512_storeu_ps(y + w * efficient::kWide, sums);
  }
}

// V registers of columns from `lo` on, the last one masked; R rows of x.
template <int R, int V>
EFFICIENT_AVX512 inline void MeetRows(const Problem& p, int64_t m, int64_t k0, int64_t depth, const float* block,
                                      int64_t at, __mmask16 mask) {
  __m512 sums[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      sums[r][v] = _mm512_maskz_loadu_ps(v == V - 1 ? mask : 0xFFFF, p.y + (m + r) * p.n + at + 16 * v);
  for (int64_t h = 0; h < depth; ++h) {
    __m512 w[V];
    for (int v = 0; v < V; ++v) w[v] = _mm512_maskz_loadu_ps(v == V - 1 ? mask : 0xFFFF, block + h * p.width + 16 * v);
    for (int r = 0; r < R; ++r) {
      const __m512 value = _mm512_set1_ps(p.x[(m + r) * p.k + k0 + h]);
      for (int v = 0; v < V; ++v) sums[r][v] = _mm512_fmadd_ps(value, w[v], sums[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      _mm512_mask_storeu_ps(p.y + (m + r) * p.n + at + 16 * v, v == V - 1 ? mask : 0xFFFF, sums[r][v]);
}

template <int V>
EFFICIENT_AVX512 inline void MeetPart(const Problem& p, int64_t m0, int64_t m1, int64_t k0, int64_t depth,
                                      const float* block, int64_t at, __mmask16 mask) {
  int64_t m = m0;
  for (; m + 8 <= m1; m += 8) MeetRows<8, V>(p, m, k0, depth, block, at, mask);
  for (; m + 2 <= m1; m += 2) MeetRows<2, V>(p, m, k0, depth, block, at, mask);
  for (; m < m1; ++m) MeetRows<1, V>(p, m, k0, depth, block, at, mask);
}

EFFICIENT_AVX512 void Meet512(const Problem& p, int64_t m0, int64_t m1, int64_t k0, int64_t depth, const float* block,
                              int64_t n0, int64_t lo, int64_t hi) {
  while (lo < hi) {
    const int64_t columns = std::min<int64_t>(32, hi - lo), rest = (columns - 1) % 16 + 1;
    const __mmask16 mask = static_cast<__mmask16>((1u << rest) - 1);
    if (columns > 16) {
      MeetPart<2>(p, m0, m1, k0, depth, block + lo, n0 + lo, mask);
    } else {
      MeetPart<1>(p, m0, m1, k0, depth, block + lo, n0 + lo, mask);
    }
    lo += columns;
  }
}

#endif  // EFFICIENT_X86

// Calls meet(first row, depth, block, its first column, lo, hi) for the blocks that meet columns n0 to n1.
template <typename Meet>
void Strip(const Problem& p, int64_t n0, int64_t n1, const Meet& meet) {
  const int32_t first = static_cast<int32_t>(n0 / p.width);
  for (int64_t row = 0; row < p.rows; ++row) {
    const int64_t k0 = row * p.height, depth = std::min(p.height, p.k - k0);
    const auto begin = p.columns.begin();
    int64_t i = std::lower_bound(begin + p.bounds[row], begin + p.bounds[row + 1], first) - begin;
    for (; i < p.bounds[row + 1]; ++i) {
      const int64_t at = int64_t{p.columns[i]} * p.width;
      if (at >= n1) break;
      const int64_t lo = std::max<int64_t>(0, n0 - at), hi = std::min(p.width, n1 - at);
      if (lo < hi) meet(k0, depth, p.values + i * p.height * p.width, at, lo, hi);
    }
  }
}

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> values, ffi::AnyBuffer columns,
               ffi::AnyBuffer pointers, ffi::ResultBuffer<ffi::F32> y, int64_t tier) {
  efficient::Poison(y);
  const auto dx = x.dimensions(), dv = values.dimensions(), dy = y->dimensions();
  const auto dc = columns.dimensions(), dp = pointers.dimensions();
  if (dx.size() != 2 || dv.size() != 3 || dy.size() != 2 || dc.size() != 1 || dp.size() != 1 || dy[0] != dx[0])
    return ffi::Error::InvalidArgument("block_sparse_matmul: numbers of axes must be 2, 3, 1, 1 and 2");
  Problem p{};
  p.m = dx[0], p.k = dx[1], p.n = dy[1], p.height = dv[1], p.width = dv[2];
  if (p.height < 1 || p.width < 1 || dc[0] != dv[0] || dp[0] != (p.k + p.height - 1) / p.height + 1)
    return ffi::Error::InvalidArgument("block_sparse_matmul: a column a block, and a pointer a row of blocks and one");
  p.rows = dp[0] - 1;
  p.x = x.typed_data(), p.values = values.typed_data(), p.y = y->typed_data();
  const int64_t across = (p.n + p.width - 1) / p.width;
  bool sound = efficient::WithIndices(columns, [&](const auto* data) {
    p.columns.resize(dc[0]);  // what is out of bounds is padding: beyond the last column
    for (int64_t i = 0; i < dc[0]; ++i)
      p.columns[i] = static_cast<int32_t>(std::min<int64_t>(static_cast<int64_t>(data[i]), across));
  });
  sound &= across < (int64_t{1} << 31) && efficient::WithIndices(pointers, [&](const auto* data) {
    p.bounds = efficient::Bounds(data, p.rows, dv[0]);
  });
  if (!sound) return ffi::Error::InvalidArgument("block_sparse_matmul: columns and pointers must be unsigned integers");
  if (p.m == 0 || p.n == 0) return ffi::Error::Success();
  const int64_t wide = std::max<int64_t>(1, std::min<int64_t>(across, 512 / p.width + 1)) * p.width;  // columns of one
  const int64_t strips = (p.n + wide - 1) / wide, work = p.m * dv[0] * p.height * p.width;
  bool has_512 = false;
#if EFFICIENT_X86
  has_512 = efficient::HasAvx512() && tier != 1;
  if (has_512 && p.width < efficient::kWide && p.m >= efficient::kWide / 2) {
    for (int64_t m0 = 0; m0 < p.m; m0 += efficient::kWide) {
      const std::vector<float> x = efficient::Turned(p.x, p.m, p.k, m0);
      efficient::ParallelFor(pool, strips, efficient::kWide * (work / p.m), [&](int64_t i) {
        const int64_t n0 = i * wide, n1 = std::min(p.n, n0 + wide);
        std::vector<float> y((n1 - n0) * efficient::kWide, 0.0f);
        Strip(p, n0, n1, [&](int64_t k0, int64_t depth, const float* block, int64_t at, int64_t lo, int64_t hi) {
          Narrow512(x.data() + k0 * efficient::kWide, block, p.width, depth, lo, hi,
                    y.data() + (at - n0) * efficient::kWide);
        });
        efficient::TurnBack(y.data(), p.m, p.n, m0, n0, n1, p.y);
      });
    }
    return ffi::Error::Success();
  }
#endif
  constexpr int64_t kChunk = 64;  // rows of x of a task
  const int64_t down = (p.m + kChunk - 1) / kChunk;
  efficient::ParallelFor(pool, strips * down, work, [&](int64_t i) {
    const int64_t m0 = i / strips * kChunk, n0 = i % strips * wide;
    const int64_t m1 = std::min(p.m, m0 + kChunk), n1 = std::min(p.n, n0 + wide);
    for (int64_t m = m0; m < m1; ++m) std::memset(p.y + m * p.n + n0, 0, (n1 - n0) * sizeof(float));
    Strip(p, n0, n1, [&](int64_t k0, int64_t depth, const float* block, int64_t at, int64_t lo, int64_t hi) {
#if EFFICIENT_X86
      if (has_512) return Meet512(p, m0, m1, k0, depth, block, at, lo, hi);
#endif
      MeetAny(p, m0, m1, k0, depth, block, at, lo, hi);
    });
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientBlockSparseMatmul, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("tier"));
