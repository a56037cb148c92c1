// y = x W on the CPU, W with n values of every m neighbours along its rows, and their places among them.
//
//   x          float32 [M, K]
//   values     float32 [groups, n, N]   groups = ceil(K / m)
//   positions  uint8 [ceil(groups n N b / 8)]   b = ceil(log2 m) bits each, in the order of values, the first in
//              the top bits
//   y          float32 [M, N]
//
// A place beyond the last row of W stands for a zero.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "instructions.h"
#include "parallel.h"
#include "poison.h"
#include "tile.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using efficient::kColumns;

constexpr int64_t kFew = 4;      // rows of x up to which each is multiplied by itself
constexpr int64_t kStrip = 512;  // columns of a task, at most

struct Problem {
  const float* x;
  const float* values;
  const uint8_t* positions;
  float* y;
  int64_t m, k, columns, groups, n, of, bits, bytes;
};

// The place of value number `i`.
inline int64_t PlaceAt(const Problem& p, int64_t i) {
  int64_t place = 0;
  for (int64_t b = i * p.bits; b < (i + 1) * p.bits; ++b) place = 2 * place + ((p.positions[b / 8] >> (7 - b % 8)) & 1);
  return place;
}

// Rows k0 to k1 of W, k0 a multiple of `of`, of the columns from n0 on; zeros beyond `columns`.
void Decode(const Problem& p, int64_t k0, int64_t k1, int64_t n0, int64_t columns, float* tile) {
  std::memset(tile, 0, (k1 - k0) * kColumns * sizeof(float));
  for (int64_t g = k0 / p.of; g * p.of < k1; ++g)
    for (int64_t i = 0; i < p.n; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t at = (g * p.n + i) * p.columns + n0 + j, row = g * p.of + PlaceAt(p, at);
        if (row < k1 && p.values[at] != 0.0f) tile[(row - k0) * kColumns + j] = p.values[at];
      }
}

#if EFFICIENT_X86

// Of 16 values from number `i` on, i * bits a multiple of 8: their places; `room` bytes may be read.
template <int Bits>
EFFICIENT_AVX512 inline __m512i Places(const uint8_t* from, int64_t room) {
  uint64_t word = 0;
  if (Bits == 2 && room >= 4) {
    uint32_t four;
    std::memcpy(&four, from, 4);
    const __m512i all = _mm512_set1_epi32(static_cast<int32_t>(__builtin_bswap32(four)));
    const __m512i by = _mm512_setr_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_and_si512(_mm512_srlv_epi32(all, by), _mm512_set1_epi32(3));
  }
  std::memcpy(&word, from, std::min<int64_t>(room, 2 * Bits));
  const __m512i all = _mm512_set1_epi64(static_cast<int64_t>(__builtin_bswap64(word)));
  const __m512i mask = _mm512_set1_epi64((1 << Bits) - 1);
  __m256i halves[2];
  for (int h = 0; h < 2; ++h) {
    const __m512i by = _mm512_sub_epi64(
        _mm512_set1_epi64(64 - Bits - 8 * h * Bits),
        _mm512_setr_epi64(0, Bits, 2 * Bits, 3 * Bits, 4 * Bits, 5 * Bits, 6 * Bits, 7 * Bits));
    halves[h] = _mm512_cvtepi64_epi32(_mm512_and_si512(_mm512_srlv_epi64(all, by), mask));
  }
  return _mm512_inserti64x4(_mm512_castsi256_si512(halves[0]), halves[1], 1);
}

// Columns n0 to n1, at most kStrip, of one row of x. Some groups at a time go through all columns, so that each row of
// values is read on in order.
template <int Bits, int Kept>
EFFICIENT_AVX512 void One512(const Problem& p, int64_t m, int64_t n0, int64_t n1) {
  constexpr int64_t kAtOnce = 8;
  const int64_t kept = Kept ? Kept : p.n;
  alignas(64) float totals[kStrip] = {};
  for (int64_t g0 = 0; g0 < p.groups; g0 += kAtOnce) {
    const int64_t g1 = std::min(p.groups, g0 + kAtOnce);
    __m512 x[kAtOnce];
    for (int64_t g = g0; g < g1; ++g) {
      const int64_t there = std::min(p.of, p.k - g * p.of);
      x[g - g0] = _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << there) - 1), p.x + m * p.k + g * p.of);
    }
    for (int64_t n = n0; n < n1; n += 16) {
      const __mmask16 mask = n1 - n >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (n1 - n)) - 1);
      __m512 sums = _mm512_load_ps(totals + n - n0);
      for (int64_t g = g0; g < g1; ++g)
        for (int64_t i = 0; i < kept; ++i) {
          const int64_t at = (g * kept + i) * p.columns + n, byte = at * Bits / 8;
          const __m512i place = Places<Bits>(p.positions + byte, p.bytes - byte);
          sums = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(mask, p.values + at), _mm512_permutexvar_ps(place, x[g - g0]),
                                 sums);
        }
      _mm512_store_ps(totals + n - n0, sums);
    }
  }
  std::memcpy(p.y + m * p.columns + n0, totals, (n1 - n0) * sizeof(float));
}

// Decode for whole tiles: every place of a group takes the value that names it.
template <int Bits, int Kept>
EFFICIENT_AVX512 void Decode512(const Problem& p, int64_t k0, int64_t k1, int64_t n0, float* tile) {
  const int64_t kept = Kept ? Kept : p.n;
  for (int64_t g = k0 / p.of; g * p.of < k1; ++g) {
    const int64_t there = std::min(p.of, k1 - g * p.of);
    float* rows = tile + (g * p.of - k0) * kColumns;
    for (int c = 0; c < 4; ++c) {
      constexpr int kMost = Kept ? Kept : 16;
      __m512i places[kMost];
      __m512 values[kMost];
      __mmask16 stays[kMost];
      for (int64_t i = 0; i < kept; ++i) {
        const int64_t at = (g * kept + i) * p.columns + n0 + 16 * c, byte = at * Bits / 8;
        places[i] = Places<Bits>(p.positions + byte, p.bytes - byte);
        values[i] = _mm512_loadu_ps(p.values + at);
        stays[i] = _mm512_cmpneq_ps_mask(values[i], _mm512_setzero_ps());
      }
      for (int64_t r = 0; r < there; ++r) {
        const __m512i here = _mm512_set1_epi32(static_cast<int>(r));
        __m512 row = _mm512_setzero_ps();
        for (int64_t i = 0; i < kept; ++i)
          row = _mm512_mask_mov_ps(row, _mm512_mask_cmpeq_epi32_mask(stays[i], places[i], here), values[i]);
        _mm512_storeu_ps(rows + r * kColumns + 16 * c, row);
      }
    }
  }
}

template <int Bits, int Kept>
void RunWide(const Problem& p, ffi::ThreadPool& pool) {
  if (p.m <= kFew) {
    const int64_t wanted = (p.columns / (4 * pool.num_threads()) + 15) / 16 * 16;
    const int64_t strip = std::max<int64_t>(16, std::min(kStrip, wanted)), strips = (p.columns + strip - 1) / strip;
    efficient::ParallelFor(pool, strips * p.m, 2 * p.m * p.groups * p.n * p.columns, [&](int64_t i) {
      const int64_t n0 = i % strips * strip;
      One512<Bits, Kept>(p, i / strips, n0, std::min(p.columns, n0 + strip));
    });
    return;
  }
  const auto decode = [&](int64_t k0, int64_t k1, int64_t n0, int64_t columns, float* tile) {
    if (columns == kColumns) {
      Decode512<Bits, Kept>(p, k0, k1, n0, tile);
    } else {
      Decode(p, k0, k1, n0, columns, tile);
    }
  };
  efficient::Tiled(pool, p.x, p.m, p.k, p.columns, 0, p.columns, p.of, p.y, decode, efficient::Multiply512);
}

#endif  // EFFICIENT_X86

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> values,
               ffi::Buffer<ffi::U8> positions, ffi::ResultBuffer<ffi::F32> y, int64_t of, int64_t tier) {
  efficient::Poison(y);
  const auto dx = x.dimensions(), dv = values.dimensions(), dy = y->dimensions();
  if (dx.size() != 2 || dv.size() != 3 || dy.size() != 2 || positions.dimensions().size() != 1 || dy[0] != dx[0])
    return ffi::Error::InvalidArgument("n_m_matmul: numbers of axes must be 2, 3, 1 and 2");
  if (of < 1 || of > 256) return ffi::Error::InvalidArgument("n_m_matmul: m must be from 1 to 256");
  Problem p{};
  p.m = dx[0], p.k = dx[1], p.columns = dy[1], p.groups = dv[0], p.n = dv[1], p.of = of;
  while ((int64_t{1} << p.bits) < of) ++p.bits;
  p.bytes = static_cast<int64_t>(positions.element_count());
  if (dv[2] != p.columns || p.groups != (p.k + of - 1) / of || p.n < 1 || p.n > of ||
      p.bytes != (p.groups * p.n * p.columns * p.bits + 7) / 8)
    return ffi::Error::InvalidArgument("n_m_matmul: shapes of x, values, positions and y must go together");
  p.x = x.typed_data(), p.values = values.typed_data(), p.positions = positions.typed_data(), p.y = y->typed_data();
  if (p.m == 0 || p.columns == 0) return ffi::Error::Success();
#if EFFICIENT_X86
  if (efficient::HasAvx512() && tier != 1 && p.bits >= 1 && p.bits <= 4 && p.columns * p.bits % 8 == 0) {
    if (p.bits == 1) RunWide<1, 0>(p, pool);
    if (p.bits == 2) p.n == 2 ? RunWide<2, 2>(p, pool) : RunWide<2, 0>(p, pool);  // 2:4 is what most use
    if (p.bits == 3) RunWide<3, 0>(p, pool);
    if (p.bits == 4) RunWide<4, 0>(p, pool);
    return ffi::Error::Success();
  }
#endif
  const auto decode = [&](int64_t k0, int64_t k1, int64_t n0, int64_t columns, float* tile) {
    Decode(p, k0, k1, n0, columns, tile);
  };
  efficient::Tiled(pool, p.x, p.m, p.k, p.columns, 0, p.columns, of, p.y, decode, efficient::MultiplyAny);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientNMMatmul, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("m")
                                  .Attr<int64_t>("tier"));
