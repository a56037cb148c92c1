// A product with x in float32 and W in whole numbers by AMX in bfloat16, exact but for the order of sums: a float32
// number is the sum of three of bfloat16, a whole number of 8 bits is one.
#ifndef EFFICIENT_QUANTIZED_MATMUL_FLOAT_AMX_H_
#define EFFICIENT_QUANTIZED_MATMUL_FLOAT_AMX_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "amx.h"
#include "float_avx512.h"
#include "parallel.h"

#if EFFICIENT_HAS_AMX

namespace efficient {

#define EFFICIENT_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,amx-tile,amx-bf16")))

constexpr int64_t kStep = 32;   // rows of W that tiles multiply at once
constexpr int64_t kDeep = 256;  // rows of a piece

struct Cut {  // rows k0 to k1 of W, of one run; the first of their steps is number `step`
  int64_t k0, k1, run, step;
  int64_t steps() const { return (k1 - k0 + kStep - 1) / kStep; }
};

// x as three parts, in tiles as they are loaded: [steps, rows / 16, 3, 16, kStep]; and its sums over each piece.
struct Split {
  std::vector<Cut> cuts;
  int64_t steps = 0, rows;  // rows up to a multiple of 32
  std::vector<uint16_t> parts;
  std::vector<float> sums;

  Split(const FloatProblem& p, xla::ffi::ThreadPool& pool) : rows((p.m + 31) / 32 * 32) {
    for (int64_t run = 0; run * p.group < p.k; ++run) {
      const int64_t end = std::min(p.k, (run + 1) * p.group);
      for (int64_t k = run * p.group; k < end; k += kDeep) {
        cuts.push_back({k, std::min(end, k + kDeep), run, steps});
        steps += cuts.back().steps();
      }
    }
    parts.assign(steps * rows * 3 * kStep, 0);
    sums.assign(rows * cuts.size(), 0.0f);
    ParallelFor(pool, p.m, 8 * p.m * p.k, [&](int64_t m) { Row(p, m); });
  }

  const uint16_t* Tile(int64_t step, int64_t m, int part) const {
    return parts.data() + ((step * (rows / 16) + m / 16) * 3 + part) * 16 * kStep;
  }

  // Upper 8 bits of the mantissa, the next 8, the last 8: what is taken off each time is exact.
  EFFICIENT_AVX512 void Row(const FloatProblem& p, int64_t m) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u)), quiet = _mm512_set1_epi32(0x400000);
    for (size_t i = 0; i < cuts.size(); ++i) {
      const float* x = p.x + m * p.k + cuts[i].k0;
      const int64_t count = cuts[i].k1 - cuts[i].k0;
      __m512 sum = _mm512_setzero_ps();
      for (int64_t k = 0; k < count; k += 16) {
        const __mmask16 mask = count - k >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (count - k)) - 1);
        uint16_t* out = const_cast<uint16_t*>(Tile(cuts[i].step + k / kStep, m, 0)) + m % 16 * kStep + k % kStep;
        __m512 left = _mm512_maskz_loadu_ps(mask, x + k);
        sum = _mm512_add_ps(sum, left);
        for (int s = 0; s < 3; ++s) {
          const __mmask16 nan = _mm512_fpclass_ps_mask(left, 0x81), infinite = _mm512_fpclass_ps_mask(left, 0x18);
          const __m512i bits = _mm512_mask_or_epi32(_mm512_castps_si512(left), nan, _mm512_castps_si512(left), quiet);
          const __m512i taken = _mm512_and_si512(bits, upper);
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + s * 16 * kStep),
                              _mm512_cvtepi32_epi16(_mm512_srli_epi32(taken, 16)));
          left = _mm512_maskz_sub_ps(static_cast<__mmask16>(~(nan | infinite)), left, _mm512_castsi512_ps(taken));
        }
      }
      sums[m * cuts.size() + i] = _mm512_reduce_add_ps(sum);
    }
  }
};

// One piece of 64 columns as pairs of rows: [pairs][64 pairs].
template <typename Reader>
EFFICIENT_AVX512 void Pack(const FloatProblem& p, const float* table, const Cut& cut, int64_t n0, uint32_t* tile) {
  constexpr int U = Reader::kRegisters;
  const Reader reader(table);
  for (int64_t i = 0; i < cut.steps() * kStep / 2; ++i, tile += 64) {
    const int64_t k = cut.k0 + 2 * i;
    if (k >= cut.k1) {
      std::memset(tile, 0, 256);
      continue;
    }
    const uint8_t* codes = p.codes + k * p.pitch + n0 * p.bits / 8;
    const uint8_t* next = k + 1 < cut.k1 ? codes + p.pitch : codes;  // x is 0 where there is none
    for (int c = 0; c < 4; c += U) {
      __m512 first[U], second[U], pairs[U], ordered[U];
      reader.Numbers(codes + 16 * (c / U), first);
      reader.Numbers(next + 16 * (c / U), second);
      for (int u = 0; u < U; ++u)  // their lower halves are 0
        pairs[u] = _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(first[u]), 16),
                                                       _mm512_castps_si512(second[u])));
      InOrder<Reader>(pairs, ordered);
      for (int u = 0; u < U; ++u)
        _mm512_storeu_si512(tile + 16 * (c + u), _mm512_castps_si512(ordered[u]));
    }
  }
}

// 32 rows from m on times a packed piece, 32 columns at a time; scaled and added to totals, rows `pitch` apart.
inline EFFICIENT_BF16 void MultiplySplit(const FloatProblem& p, const Split& x, size_t i, int64_t m, int64_t n0,
                                  const uint32_t* tile, float* totals, int64_t pitch) {
  const Cut& cut = x.cuts[i];
  alignas(64) float sums[4][256];
  for (int half = 0; half < 2; ++half) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t step = 0; step < cut.steps(); ++step) {
      const uint32_t* w = tile + step * kStep / 2 * 64 + 32 * half;
      _tile_loadd(6, w, 256);
      _tile_loadd(7, w + 16, 256);
      for (int part = 2; part >= 0; --part) {
        _tile_loadd(4, x.Tile(cut.step + step, m, part), 2 * kStep);
        _tile_loadd(5, x.Tile(cut.step + step, m + 16, part), 2 * kStep);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    _tile_stored(2, sums[2], 64);
    _tile_stored(3, sums[3], 64);
    for (int c = 0; c < 2; ++c) {
      const int64_t n = n0 + 32 * half + 16 * c;
      const float* scale = p.Scale(cut.run);
      const __m512 by = p.scale_stride ? _mm512_loadu_ps(scale + n) : _mm512_set1_ps(scale[0]);
      __m512 off = _mm512_setzero_ps();
      if (p.shift)
        off = p.shift_stride ? _mm512_loadu_ps(p.Shift(cut.run) + n) : _mm512_set1_ps(p.Shift(cut.run)[0]);
      for (int r = 0; r < 32; ++r) {
        __m512 part = _mm512_load_ps(sums[2 * (r / 16) + c] + 16 * (r % 16));
        if (p.shift) part = _mm512_fnmadd_ps(off, _mm512_set1_ps(x.sums[(m + r) * x.cuts.size() + i]), part);
        float* total = totals + r * pitch + 32 * half + 16 * c;
        _mm512_storeu_ps(total, _mm512_fmadd_ps(part, by, _mm512_loadu_ps(total)));
      }
    }
  }
}

// Columns up to `last`, a multiple of 64, of all rows.
template <typename Reader>
EFFICIENT_BF16 void RunSplit(const FloatProblem& p, xla::ffi::ThreadPool& pool, const float* table, int64_t last) {
  constexpr int64_t kTask = 256;  // rows of x of a task
  const Split x(p, pool);
  // Many columns at once, as all of x is read for them; yet a task for every thread.
  const int64_t wide = std::max<int64_t>(64, std::min<int64_t>(256, last / pool.num_threads() / 64 * 64));
  const int64_t across = (last + wide - 1) / wide, down = (p.m + kTask - 1) / kTask;
  ParallelFor(pool, across * down, p.m * last * p.k / 4, [&](int64_t task) EFFICIENT_BF16 {
    const int64_t n0 = task % across * wide, m0 = task / across * kTask, m1 = std::min(x.rows, m0 + kTask);
    const int64_t columns = std::min(wide, last - n0), room = kDeep / 2 * 64;
    std::vector<uint32_t> tile(columns / 64 * room);
    std::vector<float> totals((m1 - m0) * columns, 0.0f);
    Configure(16);
    for (size_t i = 0; i < x.cuts.size(); ++i) {
      for (int64_t c = 0; c < columns; c += 64)
        Pack<Reader>(p, table, x.cuts[i], n0 + c, tile.data() + c / 64 * room);
      for (int64_t m = m0; m < m1; m += 32)
        for (int64_t c = 0; c < columns; c += 64)
          MultiplySplit(p, x, i, m, n0 + c, tile.data() + c / 64 * room,
                        totals.data() + (m - m0) * columns + c, columns);
    }
    _tile_release();
    for (int64_t m = m0; m < std::min(p.m, m1); ++m)
      std::memcpy(p.y + m * p.n + n0, totals.data() + (m - m0) * columns, columns * sizeof(float));
  });
}

}  // namespace efficient

#endif  // EFFICIENT_HAS_AMX

#endif  // EFFICIENT_QUANTIZED_MATMUL_FLOAT_AMX_H_
