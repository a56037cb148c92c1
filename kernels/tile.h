// Tile: a part of W in float32 that stays in cache, and its product with rows of x.
#ifndef EFFICIENT_TILE_H_
#define EFFICIENT_TILE_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "instructions.h"
#include "parallel.h"

namespace efficient {

constexpr int64_t kColumns = 64;  // of a tile
constexpr int64_t kRows = 256;    // of a tile
constexpr int64_t kChunk = 192;   // rows of x that one task multiplies with a tile

// acc[r][kColumns] += sum over d < depth of x[r, d] tile[d][kColumns], r < rows; x[r, d] is x[r * pitch + d * along].
EFFICIENT_CLONES inline void MultiplyAny(const float* x, int64_t pitch, int64_t along, int64_t rows, int64_t depth,
                                         const float* tile, float* acc) {
  for (int64_t r = 0; r < rows; ++r) {
    float* sums = acc + r * kColumns;
    for (int64_t d = 0; d < depth; ++d) {
      const float value = x[r * pitch + d * along];
      const float* row = tile + d * kColumns;
      for (int64_t j = 0; j < kColumns; ++j) sums[j] += value * row[j];
    }
  }
}

#if EFFICIENT_X86

// R rows and the first 16 C columns.
template <int R, int C = 4>
EFFICIENT_AVX512 inline void MultiplyRows(const float* x, int64_t pitch, int64_t along, int64_t depth,
                                          const float* tile, float* acc) {
  __m512 sums[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sums[r][c] = _mm512_loadu_ps(acc + r * kColumns + 16 * c);
  for (int64_t d = 0; d < depth; ++d, x += along) {
    __m512 row[C];
    for (int c = 0; c < C; ++c) row[c] = _mm512_loadu_ps(tile + d * kColumns + 16 * c);
    for (int r = 0; r < R; ++r) {
      const __m512 value = _mm512_set1_ps(x[r * pitch]);
      for (int c = 0; c < C; ++c) sums[r][c] = _mm512_fmadd_ps(value, row[c], sums[r][c]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) _mm512_storeu_ps(acc + r * kColumns + 16 * c, sums[r][c]);
}

EFFICIENT_AVX512 inline void Multiply512(const float* x, int64_t pitch, int64_t along, int64_t rows, int64_t depth,
                                         const float* tile, float* acc) {
  int64_t r = 0;
  for (; r + 6 <= rows; r += 6) MultiplyRows<6>(x + r * pitch, pitch, along, depth, tile, acc + r * kColumns);
  for (; r + 2 <= rows; r += 2) MultiplyRows<2>(x + r * pitch, pitch, along, depth, tile, acc + r * kColumns);
  if (r < rows) MultiplyRows<1>(x + r * pitch, pitch, along, depth, tile, acc + r * kColumns);
}

// The same for the first 16 C columns, C at most 2.
template <int C>
EFFICIENT_AVX512 inline void MultiplyNarrow512(const float* x, int64_t pitch, int64_t along, int64_t rows,
                                               int64_t depth, const float* tile, float* acc) {
  int64_t r = 0;
  for (; r + 10 <= rows; r += 10) MultiplyRows<10, C>(x + r * pitch, pitch, along, depth, tile, acc + r * kColumns);
  for (; r < rows; ++r) MultiplyRows<1, C>(x + r * pitch, pitch, along, depth, tile, acc + r * kColumns);
}

#endif  // EFFICIENT_X86

// y [m, n] = x [m, k] W for columns `first` to `last`. `decode(k0, k1, n0, columns, tile)` makes rows k0 to k1 of W's
// columns from n0 on, zeros beyond `columns`; `align` divides every k0.
template <typename Decode, typename Multiply>
void Tiled(xla::ffi::ThreadPool& pool, const float* x, int64_t m, int64_t k, int64_t n, int64_t first,
           int64_t last, int64_t align, float* y, const Decode& decode, const Multiply& multiply) {
  const int64_t across = (last - first + kColumns - 1) / kColumns, down = (m + kChunk - 1) / kChunk;
  const int64_t depth = std::max(align, kRows / align * align);
  ParallelFor(pool, across * down, m * (last - first) * k, [&](int64_t i) {
    const int64_t n0 = first + (i % across) * kColumns, m0 = (i / across) * kChunk;
    const int64_t columns = std::min(kColumns, last - n0), rows = std::min(kChunk, m - m0);
    std::vector<float> tile(depth * kColumns), acc(rows * kColumns, 0.0f);
    for (int64_t k0 = 0; k0 < k; k0 += depth) {
      const int64_t k1 = std::min(k, k0 + depth);
      decode(k0, k1, n0, columns, tile.data());
      multiply(x + m0 * k + k0, k, 1, rows, k1 - k0, tile.data(), acc.data());
    }
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(y + (m0 + r) * n + n0, acc.data() + r * kColumns, sizeof(float) * columns);
  });
}

}  // namespace efficient

#endif  // EFFICIENT_TILE_H_
