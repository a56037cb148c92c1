// A product in 8-bit integers by AMX: codes turned as for VNNI, then 16 x 16 sums of up to 64 rows of W at once.
#ifndef EFFICIENT_QUANTIZED_MATMUL_INT8_AMX_H_
#define EFFICIENT_QUANTIZED_MATMUL_INT8_AMX_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "amx.h"
#include "int8_vnni.h"

#if EFFICIENT_HAS_AMX

namespace efficient {

#define EFFICIENT_AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,amx-tile,amx-int8")))

inline bool HasAmx() { return HasVnni() && HasTiles(25); }

// 16 rows of sums of 16 columns, added to totals.
template <int Bits>
EFFICIENT_AMX inline void Add(const Problem& p, size_t i, int64_t m, int v, const int32_t* sums, __m512 scale, __m512 shift,
                              float* totals) {
  constexpr int V = Block<Bits>::V;
  const __m512 by = _mm512_set1_ps(1.0f / Lift<Bits>(v));
  const float* whole = p.sums.data() + m * p.pieces.size() + i;
  for (int r = 0; r < 16; ++r, totals += 16 * V, whole += p.pieces.size()) {
    __m512 part = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sums + 16 * r)), by);
    if (p.Shifts()) part = _mm512_fnmadd_ps(shift, _mm512_set1_ps(*whole), part);
    _mm512_storeu_ps(totals, _mm512_fmadd_ps(part, scale, _mm512_loadu_ps(totals)));
  }
}

// Rows m to m + 32 (m + 16 where `pair` is false) times all columns of a turned piece, filled up to whole steps.
template <int Bits>
EFFICIENT_AMX inline void MultiplyTiles(const Problem& p, size_t i, int64_t m, bool pair, int64_t step,
                                        const __m512i* tile, const __m512* scale, const __m512* shift, float* totals) {
  constexpr int V = Block<Bits>::V;
  const Piece& piece = p.pieces[i];
  const int32_t* x = p.values.data() + m * p.quads + piece.quad;
  const int64_t pitch = p.quads * 4, quads = piece.quads();
  alignas(64) int32_t sums[4][256];
  for (int c = 0; c < V; c += 2) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t q = 0; q < quads; q += step) {
      _tile_loadd(6, tile + q * V + c, V * 64);
      _tile_loadd(7, tile + q * V + c + 1, V * 64);
      _tile_loadd(4, x + q, pitch);
      _tile_dpbsud(0, 4, 6);
      _tile_dpbsud(1, 4, 7);
      if (pair) {
        _tile_loadd(5, x + 16 * p.quads + q, pitch);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
      }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    Add<Bits>(p, i, m, c, sums[0], scale[c], shift[c], totals + 16 * c);
    Add<Bits>(p, i, m, c + 1, sums[1], scale[c + 1], shift[c + 1], totals + 16 * (c + 1));
    if (pair) {
      _tile_stored(2, sums[2], 64);
      _tile_stored(3, sums[3], 64);
      Add<Bits>(p, i, m + 16, c, sums[2], scale[c], shift[c], totals + 16 * (c + 16 * V));
      Add<Bits>(p, i, m + 16, c + 1, sums[3], scale[c + 1], shift[c + 1], totals + 16 * (c + 1 + 16 * V));
    }
  }
}

// As `Many` below; rows of x are there up to a multiple of 16.
template <int Bits>
EFFICIENT_AMX inline void ManyTiles(const Problem& p, int64_t m0, int64_t m1, int64_t n0) {
  constexpr int V = Block<Bits>::V;
  constexpr int64_t C = Block<Bits>::kColumns;
  const int64_t columns = std::min(C, p.n - n0), rows = m1 - m0, whole = (rows + 15) / 16 * 16;
  const __mmask64 mask = Mask<Bits>(columns);
  alignas(64) __m512i tile[(kPiece / 4 + 16) * V];
  std::vector<float> totals(whole * C, 0.0f);
  const __m512i flip = Flip<Bits>(p.is_signed);
  int64_t step = 1;
  for (const Piece& piece : p.pieces) step = std::max(step, std::min<int64_t>(16, piece.quads()));
  Configure(step);
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    const uint8_t* row = Codes<Bits>(p, piece.k0, n0);
    for (int64_t q = 0; q < piece.quads(); ++q, row += 4 * p.pitch)
      Quad<Bits>(row, p.pitch, piece.k1 - piece.k0 - 4 * q, mask, flip, p.is_signed, tile + q * V);
    for (int64_t q = piece.quads() * V; q < (piece.quads() + step - 1) / step * step * V; ++q)
      tile[q] = _mm512_setzero_si512();
    __m512 scale[V], shift[V];
    Arrange<Bits>(p.Scale(piece.run) + (p.scale_stride ? n0 : 0), p.scale_stride, columns, scale);
    for (int v = 0; v < V; ++v) shift[v] = _mm512_setzero_ps();
    if (p.Shifts()) Shifts<Bits>(p, piece.run, n0, columns, shift);
    for (int64_t r = 0; r < whole; r += 32)
      MultiplyTiles<Bits>(p, i, m0 + r, r + 16 < whole, step, tile, scale, shift, totals.data() + r * C);
  }
  _tile_release();
  for (int64_t r = 0; r < rows; ++r) {
    __m512 block[V];
    for (int v = 0; v < V; ++v) block[v] = _mm512_loadu_ps(totals.data() + r * C + 16 * v);
    Store<Bits>(block, p.steps[m0 + r], columns, p.y + (m0 + r) * p.n + n0);
  }
}

}  // namespace efficient

#endif  // EFFICIENT_HAS_AMX

#endif  // EFFICIENT_QUANTIZED_MATMUL_INT8_AMX_H_
