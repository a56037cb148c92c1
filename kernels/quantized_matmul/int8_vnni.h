// A product in 8-bit integers by AVX-512 VNNI: codes turned in registers, multiplied four rows of W at once.
#ifndef EFFICIENT_QUANTIZED_MATMUL_INT8_VNNI_H_
#define EFFICIENT_QUANTIZED_MATMUL_INT8_VNNI_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "int8_problem.h"

#if EFFICIENT_X86

namespace efficient {

#define EFFICIENT_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

inline bool HasVnni() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vnni");
  return has;
}

// A block is V registers of 16 columns each, from kBytes of a row of codes. Where r is a register's number and
// (lane, i) a place in it, 8-bit codes hold column 16 lane + 4 r + i there; of 4-bit codes, registers 2 q and
// 2 q + 1 hold the even and the odd columns of 32 lane + 8 q + 2 i; 2-bit codes, see `Crumb`.
template <int Bits>
struct Block {
  static constexpr int V = Bits == 8 ? 4 : 8;
  static constexpr int64_t kColumns = 16 * V;
  static constexpr int64_t kBytes = kColumns * Bits / 8;
};

// The column of a place of a block of 2-bit codes: lanes 2 and 3 hold the second and fourth of a byte's.
constexpr int Crumb(int v, int lane, int i) {
  return 4 * (16 * (lane & 1) + 4 * (v / 2) + i) + (lane >> 1) + 2 * (v % 2);
}

// What turns the first bit of each code that is two's complement.
template <int Bits>
EFFICIENT_VNNI inline __m512i Flip(bool is_signed) {
  return _mm512_set1_epi8(static_cast<char>(!is_signed ? 0 : Bits == 8 ? 0x80 : Bits == 4 ? 0x88 : 0xAA));
}

constexpr int64_t kStrip = 16;  // blocks side by side, at most

// Bytes of four rows, to lanes of four.
EFFICIENT_VNNI inline void Turn(__m512i a, __m512i b, __m512i c, __m512i d, __m512i* out) {
  const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
  const __m512i ab_high = _mm512_unpackhi_epi8(a, b), cd_high = _mm512_unpackhi_epi8(c, d);
  out[0] = _mm512_unpacklo_epi16(ab, cd);
  out[1] = _mm512_unpackhi_epi16(ab, cd);
  out[2] = _mm512_unpacklo_epi16(ab_high, cd_high);
  out[3] = _mm512_unpackhi_epi16(ab_high, cd_high);
}

// What the number in a register is multiplied by: codes of a byte's upper bits are left where they are.
template <int Bits>
constexpr int Lift(int v) {
  return Bits == 8 || v % 2 == 0 ? 1 : 16;
}

// One row's bytes of a block; of 2-bit codes, the upper half again, two bits on.
template <int Bits>
EFFICIENT_VNNI inline __m512i Row(const uint8_t* row, __mmask64 mask) {
  const __m512i own = _mm512_maskz_loadu_epi8(mask, row);
  if (Bits != 2) return own;
  const __m256i half = _mm512_castsi512_si256(own);
  return _mm512_inserti64x4(own, _mm256_srli_epi16(half, 2), 1);  // what comes from the next byte is cut off
}

// Four rows of codes from `row` on, of which `there` are there; the others stand for rows that x has 0 at. Register v
// holds codes times Lift(v).
template <int Bits>
EFFICIENT_VNNI inline void Quad(const uint8_t* row, int64_t pitch, int64_t there, __mmask64 mask, __m512i flip,
                                bool is_signed, __m512i* out) {
  const int64_t last = there - 1;
  const __m512i a = Row<Bits>(row, mask);
  const __m512i b = Row<Bits>(row + std::min<int64_t>(1, last) * pitch, mask);
  const __m512i c = Row<Bits>(row + std::min<int64_t>(2, last) * pitch, mask);
  const __m512i d = Row<Bits>(row + std::min<int64_t>(3, last) * pitch, mask);
  __m512i turned[4];
  Turn(a, b, c, d, turned);
  if (is_signed)
    for (int i = 0; i < 4; ++i) turned[i] = _mm512_xor_si512(turned[i], flip);
  if (Bits == 8) {
    for (int i = 0; i < 4; ++i) out[i] = turned[i];
    return;
  }
  const __m512i low = _mm512_set1_epi8((1 << Bits) - 1);
  const __m512i high = _mm512_set1_epi8(static_cast<char>(((1 << Bits) - 1) << 4));
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = _mm512_and_si512(turned[i], low);
    out[2 * i + 1] = _mm512_and_si512(turned[i], high);
  }
}

// Sums of a register in float.
template <int Bits>
EFFICIENT_VNNI inline __m512 Sum(__m512i sums, int v) {
  const __m512 whole = _mm512_cvtepi32_ps(sums);
  return Lift<Bits>(v) == 1 ? whole : _mm512_mul_ps(whole, _mm512_set1_ps(1.0f / Lift<Bits>(v)));
}

// Four runs of four floats, `step` apart.
EFFICIENT_VNNI inline __m512 Lanes(const float* from, int64_t step) {
  __m512 out = _mm512_castps128_ps512(_mm_loadu_ps(from));
  out = _mm512_insertf32x4(out, _mm_loadu_ps(from + step), 1);
  out = _mm512_insertf32x4(out, _mm_loadu_ps(from + 2 * step), 2);
  return _mm512_insertf32x4(out, _mm_loadu_ps(from + 3 * step), 3);
}

EFFICIENT_VNNI inline void StoreLanes(__m512 value, float* to, int64_t step) {
  _mm_storeu_ps(to, _mm512_castps512_ps128(value));
  _mm_storeu_ps(to + step, _mm512_extractf32x4_ps(value, 1));
  _mm_storeu_ps(to + 2 * step, _mm512_extractf32x4_ps(value, 2));
  _mm_storeu_ps(to + 3 * step, _mm512_extractf32x4_ps(value, 3));
}

// Numbers of a block's columns, in a block's order. `from` points at the block's first; `stride` 0 is one number.
template <int Bits>
EFFICIENT_VNNI inline void Arrange(const float* from, int64_t stride, int64_t columns, __m512* out) {
  constexpr int V = Block<Bits>::V;
  constexpr int64_t C = Block<Bits>::kColumns;
  if (!stride) {
    for (int v = 0; v < V; ++v) out[v] = _mm512_set1_ps(from[0]);
    return;
  }
  float whole[C];
  if (columns < C) {
    std::memcpy(whole, from, columns * sizeof(float));
    std::memset(whole + columns, 0, (C - columns) * sizeof(float));
    from = whole;
  }
  if (Bits == 8) {
    for (int v = 0; v < 4; ++v) out[v] = Lanes(from + 4 * v, 16);
    return;
  }
  if (Bits == 2) {
    alignas(64) float own[16];
    for (int v = 0; v < V; ++v) {
      for (int j = 0; j < 16; ++j) own[j] = from[Crumb(v, j / 4, j % 4)];
      out[v] = _mm512_load_ps(own);
    }
    return;
  }
  for (int q = 0; q < 4; ++q) {
    const __m512 first = Lanes(from + 8 * q, 32), second = Lanes(from + 8 * q + 4, 32);
    out[2 * q] = _mm512_shuffle_ps(first, second, 0x88);
    out[2 * q + 1] = _mm512_shuffle_ps(first, second, 0xDD);
  }
}

// The reverse, to memory, times `step`.
template <int Bits>
EFFICIENT_VNNI inline void Store(const __m512* block, float step, int64_t columns, float* to) {
  constexpr int64_t C = Block<Bits>::kColumns;
  const __m512 by = _mm512_set1_ps(step);
  float whole[C];
  float* out = columns < C ? whole : to;
  if (Bits == 8) {
    for (int v = 0; v < 4; ++v) StoreLanes(_mm512_mul_ps(block[v], by), out + 4 * v, 16);
  } else if (Bits == 2) {
    alignas(64) float own[16];
    for (int v = 0; v < Block<Bits>::V; ++v) {
      _mm512_store_ps(own, _mm512_mul_ps(block[v], by));
      for (int j = 0; j < 16; ++j) out[Crumb(v, j / 4, j % 4)] = own[j];
    }
  } else {
    for (int q = 0; q < 4; ++q) {
      const __m512 even = _mm512_mul_ps(block[2 * q], by), odd = _mm512_mul_ps(block[2 * q + 1], by);
      StoreLanes(_mm512_unpacklo_ps(even, odd), out + 8 * q, 32);
      StoreLanes(_mm512_unpackhi_ps(even, odd), out + 8 * q + 4, 32);
    }
  }
  if (columns < C) std::memcpy(to, whole, columns * sizeof(float));
}

template <int Bits>
inline __mmask64 Mask(int64_t columns) {
  const int64_t bytes = (columns * Bits + 7) / 8;
  return bytes >= 64 ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1;
}

template <int Bits>
inline const uint8_t* Codes(const Problem& p, int64_t k, int64_t n) {
  return p.codes + k * p.pitch + n * Bits / 8;
}

// What is taken off the codes of a block's columns in one run of rows.
template <int Bits>
EFFICIENT_VNNI inline void Shifts(const Problem& p, int64_t run, int64_t n, int64_t columns, __m512* out) {
  const __m512 base = _mm512_set1_ps(p.Base());
  for (int v = 0; v < Block<Bits>::V; ++v) out[v] = base;
  if (!p.shift) return;
  Arrange<Bits>(p.Shift(run) + (p.shift_stride ? n : 0), p.shift_stride, columns, out);
  for (int v = 0; v < Block<Bits>::V; ++v) out[v] = _mm512_add_ps(out[v], base);
}

// One row of x times `blocks` blocks of columns side by side of pieces i0 to i1, codes turned in registers; added to
// totals[block][V], in a block's order. Some rows of W at a time go through all blocks, so that each row is read on in
// order, as the machine's prefetchers expect it; sums wait in cache.
template <int Bits>
EFFICIENT_VNNI inline void Few(const Problem& p, int64_t m, int64_t n0, int64_t blocks, size_t i0, size_t i1,
                               __m512 (*totals)[Block<Bits>::V]) {
  constexpr int V = Block<Bits>::V;
  constexpr int64_t C = Block<Bits>::kColumns, B = Block<Bits>::kBytes, kQuads = 8;  // 32 rows of W
  alignas(64) __m512i sums[kStrip][V];
  const __m512i flip = Flip<Bits>(p.is_signed);
  const bool shifts = p.Shifts();
  for (size_t i = i0; i < i1; ++i) {
    const Piece& piece = p.pieces[i];
    const int64_t quads = piece.quads();
    const int32_t* x = p.values.data() + m * p.quads + piece.quad;
    const __m512 whole = _mm512_set1_ps(p.sums[m * p.pieces.size() + i]);
    for (int64_t q0 = 0; q0 < quads; q0 += kQuads) {
      const int64_t q1 = std::min(quads, q0 + kQuads), k0 = piece.k0 + 4 * q0;
      for (int64_t w = 0; w < blocks; ++w) {
        const int64_t n = n0 + w * C, columns = std::min(C, p.n - n);
        const __mmask64 mask = Mask<Bits>(columns);
        __m512i own[V];
        for (int v = 0; v < V; ++v) own[v] = q0 ? sums[w][v] : _mm512_setzero_si512();
        const uint8_t* row = Codes<Bits>(p, k0, n);
        for (int64_t q = q0, k = k0; q < q1; ++q, k += 4, row += 4 * p.pitch) {
          for (int64_t r = 8; r < 12; ++r)  // rows to come; beyond the last, nothing is read
            _mm_prefetch(reinterpret_cast<const char*>(row + r * p.pitch), _MM_HINT_T0);
          __m512i codes[V];
          Quad<Bits>(row, p.pitch, piece.k1 - k, mask, flip, p.is_signed, codes);
          const __m512i value = _mm512_set1_epi32(x[q]);
          for (int v = 0; v < V; ++v) own[v] = _mm512_dpbusd_epi32(own[v], codes[v], value);
        }
        if (q1 < quads) {
          for (int v = 0; v < V; ++v) sums[w][v] = own[v];
          continue;
        }
        __m512 scale[V], shift[V];
        Arrange<Bits>(p.Scale(piece.run) + (p.scale_stride ? n : 0), p.scale_stride, columns, scale);
        if (shifts) Shifts<Bits>(p, piece.run, n, columns, shift);
        for (int v = 0; v < V; ++v) {
          __m512 part = Sum<Bits>(own[v], v);
          if (shifts) part = _mm512_fnmadd_ps(shift[v], whole, part);
          totals[w][v] = _mm512_fmadd_ps(part, scale[v], totals[w][v]);
        }
      }
    }
  }
}

// All columns of pieces i0 to i1, piece by piece: W is read on in order from end to end.
template <int Bits>
EFFICIENT_VNNI inline void Through(const Problem& p, int64_t m, size_t i0, size_t i1,
                                   __m512 (*totals)[Block<Bits>::V]) {
  constexpr int64_t C = Block<Bits>::kColumns;
  const int64_t across = (p.n + C - 1) / C;
  for (int64_t w = 0; w < across; ++w)
    for (int v = 0; v < Block<Bits>::V; ++v) totals[w][v] = _mm512_setzero_ps();
  for (size_t i = i0; i < i1; ++i)
    for (int64_t first = 0; first < across; first += kStrip)
      Few<Bits>(p, m, first * C, std::min(kStrip, across - first), i, i + 1, totals + first);
}

// Sums of parts, each [blocks of all columns][V], to y.
template <int Bits>
EFFICIENT_VNNI inline void Merge(const Problem& p, int64_t m, const __m512 (*parts)[Block<Bits>::V], int64_t count) {
  constexpr int64_t C = Block<Bits>::kColumns;
  const int64_t across = (p.n + C - 1) / C;
  for (int64_t w = 0; w < across; ++w) {
    __m512 totals[Block<Bits>::V];
    for (int v = 0; v < Block<Bits>::V; ++v) {
      totals[v] = parts[w][v];
      for (int64_t i = 1; i < count; ++i) totals[v] = _mm512_add_ps(totals[v], parts[i * across + w][v]);
    }
    Store<Bits>(totals, p.steps[m], std::min(C, p.n - w * C), p.y + m * p.n + w * C);
  }
}

// R rows of x times four registers of columns of a turned piece, added to totals.
template <int Bits, int R>
EFFICIENT_VNNI inline void Multiply(const Problem& p, size_t i, int64_t m, const __m512i* tile, const __m512* scale,
                                    const __m512* shift, float* totals) {
  constexpr int V = Block<Bits>::V;
  const Piece& piece = p.pieces[i];
  const int32_t* x = p.values.data() + m * p.quads + piece.quad;
  __m512i sums[R][4];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_si512();
  const int64_t quads = piece.quads();
  const bool shifts = p.Shifts();
  for (int64_t q = 0; q < quads; ++q) {
    const __m512i* codes = tile + q * V;
    const __m512i w0 = codes[0], w1 = codes[1], w2 = codes[2], w3 = codes[3];
    for (int r = 0; r < R; ++r) {
      const __m512i value = _mm512_set1_epi32(x[r * p.quads + q]);
      sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], w0, value);
      sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], w1, value);
      sums[r][2] = _mm512_dpbusd_epi32(sums[r][2], w2, value);
      sums[r][3] = _mm512_dpbusd_epi32(sums[r][3], w3, value);
    }
  }
  for (int r = 0; r < R; ++r) {
    const __m512 whole = _mm512_set1_ps(p.sums[(m + r) * p.pieces.size() + i]);
    for (int c = 0; c < 4; ++c) {
      __m512 part = Sum<Bits>(sums[r][c], c);
      if (shifts) part = _mm512_fnmadd_ps(shift[c], whole, part);
      float* total = totals + 16 * (r * V + c);
      _mm512_storeu_ps(total, _mm512_fmadd_ps(part, scale[c], _mm512_loadu_ps(total)));
    }
  }
}

// Rows m0 to m1 of one block of columns: each piece is turned once, then multiplied with all rows.
template <int Bits>
EFFICIENT_VNNI inline void Many(const Problem& p, int64_t m0, int64_t m1, int64_t n0) {
  constexpr int V = Block<Bits>::V;
  constexpr int64_t C = Block<Bits>::kColumns;
  const int64_t columns = std::min(C, p.n - n0), rows = m1 - m0;
  const __mmask64 mask = Mask<Bits>(columns);
  alignas(64) __m512i tile[kPiece / 4 * V];
  std::vector<float> totals(rows * C, 0.0f);
  const __m512i flip = Flip<Bits>(p.is_signed);
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    const uint8_t* row = Codes<Bits>(p, piece.k0, n0);
    for (int64_t q = 0; q < piece.quads(); ++q, row += 4 * p.pitch)
      Quad<Bits>(row, p.pitch, piece.k1 - piece.k0 - 4 * q, mask, flip, p.is_signed, tile + q * V);
    __m512 scale[V], shift[V];
    Arrange<Bits>(p.Scale(piece.run) + (p.scale_stride ? n0 : 0), p.scale_stride, columns, scale);
    if (p.Shifts()) Shifts<Bits>(p, piece.run, n0, columns, shift);
    for (int c = 0; c < V; c += 4) {  // a tile's half stays in the first cache
      int64_t r = 0;
      for (; r + 6 <= rows; r += 6)
        Multiply<Bits, 6>(p, i, m0 + r, tile + c, scale + c, shift + c, totals.data() + r * C + 16 * c);
      for (; r + 2 <= rows; r += 2)
        Multiply<Bits, 2>(p, i, m0 + r, tile + c, scale + c, shift + c, totals.data() + r * C + 16 * c);
      for (; r < rows; ++r)
        Multiply<Bits, 1>(p, i, m0 + r, tile + c, scale + c, shift + c, totals.data() + r * C + 16 * c);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    __m512 block[V];
    for (int v = 0; v < V; ++v) block[v] = _mm512_loadu_ps(totals.data() + r * C + 16 * v);
    Store<Bits>(block, p.steps[m0 + r], columns, p.y + (m0 + r) * p.n + n0);
  }
}

}  // namespace efficient

#endif  // EFFICIENT_X86

#endif  // EFFICIENT_QUANTIZED_MATMUL_INT8_VNNI_H_
