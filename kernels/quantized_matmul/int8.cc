// y = x W on the CPU in 8-bit integers: rows of x are rounded to int8 as they come, W is unsigned codes, sums
// are int32 and exact, scales come after. Codes stay as they lie: four rows are turned into lanes in registers.
//
//   x        float32 [M, K]
//   codes    bytes [K, ceil(N bits / 8)]   of 2, 4 or 8 bits, the first of a byte lowest; two's complement if
//            is_signed
//   scale    float32 [G, N or 1]   of each run of `group` rows; G = ceil(K / group)
//   shift    float32 [G, N or 1]   taken off each code before the scale; or [0, 0]
//   x_scale  float32 [1]   of all of x; or [0]: the largest absolute value / 127, of a row or, unless per_row, of all
//   y        float32 [M, N]
//
// y[m, n] = s[m] sum_g scale[g, n] (sum_k q[m, k] code[k, n] - shift[g, n] sum_k q[m, k]), k in run g.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "int8_amx.h"
#include "int8_problem.h"
#include "int8_round.h"
#include "int8_vnni.h"
#include "parallel.h"
#include "poison.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using efficient::Piece;
using efficient::Problem;
using efficient::kPiece;

constexpr int64_t kChunk = 128;  // rows of x that one task multiplies
constexpr int64_t kTiles = 8;    // rows of x from which tiles are faster
constexpr int64_t kBlock = 64;   // columns of a task of the portable path
constexpr int64_t kParts = 16;   // of the rows of W, at most, whose sums are added at the end

void Cut(Problem& p) {
  for (int64_t run = 0; run * p.group < p.k; ++run) {
    const int64_t end = std::min(p.k, (run + 1) * p.group);
    for (int64_t k = run * p.group; k < end; k += kPiece) {
      p.pieces.push_back({k, std::min(end, k + kPiece), run, p.quads});
      p.quads += p.pieces.back().quads();
    }
  }
}

#if EFFICIENT_X86

template <int Bits>
void RunWide(const Problem& p, ffi::ThreadPool& pool, bool has_tiles) {
  constexpr int64_t C = efficient::Block<Bits>::kColumns;
  if (p.m <= 3) {
    const int64_t across = (p.n + C - 1) / C, pieces = static_cast<int64_t>(p.pieces.size());
    const int64_t parts = std::max<int64_t>(1, std::min({pieces, 2 * pool.num_threads(), kParts}));
    using Totals = __m512[efficient::Block<Bits>::V];
    std::vector<uint8_t> room(p.m * parts * across * sizeof(Totals) + 64);
    Totals* totals = reinterpret_cast<Totals*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
    efficient::ParallelFor(pool, parts * p.m, p.Work(), [&](int64_t i) {
      const int64_t part = i % parts;
      efficient::Through<Bits>(p, i / parts, pieces * part / parts, pieces * (part + 1) / parts, totals + i * across);
    });
    for (int64_t m = 0; m < p.m; ++m) efficient::Merge<Bits>(p, m, totals + m * parts * across, parts);
    return;
  }
  const int64_t across = (p.n + C - 1) / C, down = (p.m + kChunk - 1) / kChunk;
  efficient::ParallelFor(pool, across * down, p.Work(), [&](int64_t i) {
    const int64_t m0 = i / across * kChunk, m1 = std::min(p.m, m0 + kChunk);
#if EFFICIENT_HAS_AMX
    if (has_tiles) {
      efficient::ManyTiles<Bits>(p, m0, m1, i % across * C);
      return;
    }
#endif
    efficient::Many<Bits>(p, m0, m1, i % across * C);
  });
}

#endif  // EFFICIENT_X86

// The same for any machine, 64 columns at a time.
EFFICIENT_CLONES
void Portable(const Problem& p, int64_t m0, int64_t m1, int64_t n0) {
  const int64_t columns = std::min(kBlock, p.n - n0), rows = m1 - m0;
  std::vector<int16_t> tile(kPiece * kBlock, 0);
  std::vector<float> totals(rows * kBlock, 0.0f);
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    for (int64_t k = piece.k0; k < piece.k1; ++k) {
      const uint8_t* row = p.codes + k * p.pitch;
      int16_t* out = tile.data() + (k - piece.k0) * kBlock;
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t n = n0 + j;
        out[j] = efficient::Signed(efficient::CodeAt(row, n, p.bits), p.bits, p.is_signed);
      }
    }
    const float* scale = p.Scale(piece.run);
    const float* shift = p.shift ? p.Shift(piece.run) : nullptr;
    for (int64_t m = m0; m < m1; ++m) {
      const int8_t* x = reinterpret_cast<const int8_t*>(p.values.data() + m * p.quads + piece.quad);
      int32_t sums[kBlock] = {};
      for (int64_t k = 0; k < piece.k1 - piece.k0; ++k) {
        const int16_t value = x[k];
        const int16_t* row = tile.data() + k * kBlock;
        for (int64_t j = 0; j < kBlock; ++j) sums[j] += static_cast<int32_t>(value) * row[j];
      }
      const float whole = p.sums[m * p.pieces.size() + i];
      float* total = totals.data() + (m - m0) * kBlock;
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t n = n0 + j;
        float part = static_cast<float>(sums[j]);
        if (shift) part -= shift[p.shift_stride ? n : 0] * whole;
        total[j] += part * scale[p.scale_stride ? n : 0];
      }
    }
  }
  for (int64_t m = m0; m < m1; ++m)
    for (int64_t j = 0; j < columns; ++j)
      p.y[m * p.n + n0 + j] = totals[(m - m0) * kBlock + j] * p.steps[m];
}

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer codes, ffi::Buffer<ffi::F32> scale,
               ffi::Buffer<ffi::F32> shift, ffi::Buffer<ffi::F32> x_scale, ffi::ResultBuffer<ffi::F32> y,
               int64_t bits, int64_t group, bool is_signed, bool per_row, int64_t tier) {
  efficient::Poison(y);
  Problem p{};
  const std::string broken = efficient::Checked(x, codes, scale, shift, *y, bits, group, &p);
  if (!broken.empty()) return ffi::Error::InvalidArgument("int8_matmul: " + broken);
  if (x_scale.element_count() > 1)
    return ffi::Error::InvalidArgument("int8_matmul: x_scale must be one number, or empty");
  p.is_signed = is_signed;
  p.x = x.typed_data(), p.codes = static_cast<const uint8_t*>(codes.untyped_data()), p.scale = scale.typed_data(), p.y = y->typed_data();
  p.shift = shift.element_count() ? shift.typed_data() : nullptr;
  if (p.m == 0 || p.n == 0) return ffi::Error::Success();

  Cut(p);
  const int64_t whole = (p.m + 15) / 16 * 16;  // tiles read 16 rows at once, and a row's end and 60 bytes
  p.values.assign(whole * p.quads + 16, 0);
  p.sums.assign(whole * p.pieces.size(), 0.0f);
  p.steps.assign(p.m, 0.0f);
  const float* fixed = x_scale.element_count() ? x_scale.typed_data() : nullptr;
  bool wide = false;
#if EFFICIENT_X86
  wide = efficient::HasAvx512() && tier != 1;
#endif
  const int64_t at_once = std::max<int64_t>(1, 32768 / std::max<int64_t>(p.k, 1)), parts = (p.m + at_once - 1) / at_once;
  std::vector<uint32_t> tops(p.m);
  const auto rows = [&](const auto& body) {
    efficient::ParallelFor(pool, parts, 4 * p.m * p.k, [&](int64_t i) {
      for (int64_t m = i * at_once; m < std::min(p.m, (i + 1) * at_once); ++m) body(m);
    });
  };
  if (!fixed && !per_row) {
    rows([&](int64_t m) { tops[m] = efficient::Top(p.x + m * p.k, p.k, wide); });
    const uint32_t top = *std::max_element(tops.begin(), tops.end());
    rows([&](int64_t m) { efficient::RoundRow(p, m, top, nullptr, wide); });
  } else {
    rows([&](int64_t m) { efficient::RoundRow(p, m, efficient::Top(p.x + m * p.k, p.k, wide), fixed, wide); });
  }
#if EFFICIENT_X86
  if (efficient::HasVnni() && tier != 1) {
    bool has_tiles = false;
#if EFFICIENT_HAS_AMX
    has_tiles = tier != 2 && p.m >= kTiles && efficient::HasAmx();
#endif
    if (bits == 2) RunWide<2>(p, pool, has_tiles);
    if (bits == 4) RunWide<4>(p, pool, has_tiles);
    if (bits == 8) RunWide<8>(p, pool, has_tiles);
    return ffi::Error::Success();
  }
#endif
  const int64_t across = (p.n + kBlock - 1) / kBlock, down = (p.m + kChunk - 1) / kChunk;
  efficient::ParallelFor(pool, across * down, p.Work(), [&](int64_t i) {
    const int64_t m0 = i / across * kChunk;
    Portable(p, m0, std::min(p.m, m0 + kChunk), i % across * kBlock);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientInt8Matmul, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("group")
                                  .Attr<bool>("is_signed")
                                  .Attr<bool>("per_row")
                                  .Attr<int64_t>("tier"));
