// y = x W on the CPU, W as packed codes: decoded in registers where few rows are multiplied, and into a tile
// that stays in cache where many are.
//
//   x      float32 [M, K]
//   codes  bytes [K, ceil(N bits / 8)]   of 2, 4 or 8 bits, the first of a byte lowest
//   table  float32 [16 or 256]   the number of each code; or [0]: whole numbers, two's complement if is_signed
//   scale  float32 [G, N or 1]   of each run of `group` rows; G = ceil(K / group)
//   shift  float32 [G, N or 1]   taken off each number before the scale; or [0, 0]
//   y      float32 [M, N]
//
// W[k, n] = (number[code] - shift[g, n]) scale[g, n], g = k / group.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "float_amx.h"
#include "float_avx512.h"
#include "float_problem.h"
#include "parallel.h"
#include "poison.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using efficient::FloatProblem;
using efficient::kColumns;

constexpr int64_t kFew = 8;       // rows of x up to which they are multiplied in registers
constexpr int64_t kTiles = 1024;  // columns from which it pays to cut x into three parts

// The number of every code, at least 16 of them: 4 come four times.
std::vector<float> Numbers(const FloatProblem& p) {
  std::vector<float> numbers(p.table ? p.entries : p.bits == 8 ? 256 : 16);
  for (size_t i = 0; i < numbers.size(); ++i) {
    const int code = static_cast<int>(i) & ((1 << p.bits) - 1);
    numbers[i] = p.table ? p.table[code] : static_cast<float>(efficient::Signed(code, p.bits, p.is_signed));
  }
  return numbers;
}

// The numbers of `columns` columns from n0, of rows k0 to k1, scaled, into tile[row][kColumns].
void Decode(const FloatProblem& p, const std::vector<float>& table, int64_t k0, int64_t k1, int64_t n0,
            int64_t columns, float* tile) {
  const int last = static_cast<int>(table.size()) - 1;  // a power of two less one
  for (int64_t k = k0; k < k1; ++k) {
    const float* scale = p.Scale(k / p.group);
    const float* shift = p.shift ? p.Shift(k / p.group) : nullptr;
    float* row = tile + (k - k0) * kColumns;
    const uint8_t* codes = p.codes + k * p.pitch;
    for (int64_t j = 0; j < columns; ++j) {
      const int64_t n = n0 + j;
      float number = table[efficient::CodeAt(codes, n, p.bits) & last];
      if (shift) number -= shift[p.shift_stride ? n : 0];
      row[j] = number * scale[p.scale_stride ? n : 0];
    }
    for (int64_t j = columns; j < kColumns; ++j) row[j] = 0.0f;
  }
}

#if EFFICIENT_X86

// Sums of x over each run of rows: what a shift is multiplied with.
std::vector<float> RunSums(const FloatProblem& p) {
  const int64_t runs = (p.k + p.group - 1) / p.group;
  std::vector<float> sums(p.m * runs, 0.0f);
  for (int64_t m = 0; m < p.m; ++m)
    for (int64_t k = 0; k < p.k; ++k) sums[m * runs + k / p.group] += p.x[m * p.k + k];
  return sums;
}

// Columns from `first` on, copied and filled up to 64 or 128, as a product of their own.
struct Tail : FloatProblem {
  std::vector<uint8_t> bytes;
  std::vector<float> scales, shifts, out;

  Tail(const FloatProblem& p, int64_t first) : FloatProblem(p) {
    n = p.n - first <= 64 && p.m > kFew ? 64 : 128;
    pitch = n * bits / 8;
    bytes.assign(k * pitch, 0);
    for (int64_t i = 0; i < k; ++i)
      std::memcpy(bytes.data() + i * pitch, p.codes + i * p.pitch + first * bits / 8, p.pitch - first * bits / 8);
    codes = bytes.data();
    scale = Filled(p.scale, p.scale_stride, p.n, first, &scales);
    if (p.shift) shift = Filled(p.shift, p.shift_stride, p.n, first, &shifts);
    out.resize(m * n);
    y = out.data();
  }

  const float* Filled(const float* from, int64_t stride, int64_t wide, int64_t first, std::vector<float>* to) {
    if (!stride) return from;
    const int64_t runs = (k + group - 1) / group;
    to->assign(runs * n, 0.0f);
    for (int64_t run = 0; run < runs; ++run)
      std::memcpy(to->data() + run * n, from + run * wide + first, (wide - first) * sizeof(float));
    return to->data();
  }
};

template <typename Reader>
void RunWide(const FloatProblem& p, ffi::ThreadPool& pool, const std::vector<float>& table, bool tiles) {
  const int64_t done = p.m <= kFew ? p.n / 128 * 128 : p.n / kColumns * kColumns;
  if (p.m <= kFew) {
    const std::vector<float> sums = p.shift ? RunSums(p) : std::vector<float>();
    efficient::ParallelFor(pool, done / 128, p.m * p.n * p.k, [&](int64_t b) {
      int64_t m = 0;
      for (; m + 2 <= p.m; m += 2) efficient::FewRows<Reader, 2>(p, table.data(), m, 128 * b, sums.data());
      if (m < p.m) efficient::FewRows<Reader, 1>(p, table.data(), m, 128 * b, sums.data());
    });
#if EFFICIENT_HAS_AMX
  } else if (tiles && !p.table && p.n >= kTiles && efficient::HasTiles(22)) {
    efficient::RunSplit<Reader>(p, pool, table.data(), done);
#endif
  } else {
    const auto decode = [&](int64_t k0, int64_t k1, int64_t n0, int64_t, float* tile) {
      efficient::Decode512<Reader>(p, table.data(), k0, k1, n0, tile);
    };
    efficient::Tiled(pool, p.x, p.m, p.k, p.n, 0, done, 1, p.y, decode, efficient::Multiply512);
  }
  if (done == p.n) return;
  Tail tail(p, done);
  RunWide<Reader>(tail, pool, table, tiles);
  for (int64_t m = 0; m < p.m; ++m)
    std::memcpy(p.y + m * p.n + done, tail.out.data() + m * tail.n, (p.n - done) * sizeof(float));
}

void RunWideAny(const FloatProblem& p, ffi::ThreadPool& pool, const std::vector<float>& table, bool tiles) {
  if (p.bits == 4) return RunWide<efficient::Nibbles>(p, pool, table, tiles);
  if (p.bits == 2) return RunWide<efficient::Crumbs>(p, pool, table, tiles);
  if (!p.table && p.is_signed) return RunWide<efficient::Whole<true>>(p, pool, table, tiles);
  if (!p.table) return RunWide<efficient::Whole<false>>(p, pool, table, tiles);
  if (table.size() == 16) return RunWide<efficient::Few16>(p, pool, table, tiles);
  RunWide<efficient::Any256>(p, pool, table, tiles);
}

#endif  // EFFICIENT_X86

// The product, by a tier.
void Multiply(const FloatProblem& p, ffi::ThreadPool& pool, int64_t tier) {
  const std::vector<float> numbers = Numbers(p);
#if EFFICIENT_X86
  if (efficient::HasAvx512() && tier != 1) {
    RunWideAny(p, pool, numbers, tier != 2);
    return;
  }
#endif
  const auto decode = [&](int64_t k0, int64_t k1, int64_t n0, int64_t columns, float* tile) {
    Decode(p, numbers, k0, k1, n0, columns, tile);
  };
  efficient::Tiled(pool, p.x, p.m, p.k, p.n, 0, p.n, 1, p.y, decode, efficient::MultiplyAny);
}

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::AnyBuffer codes, ffi::Buffer<ffi::F32> table,
               ffi::Buffer<ffi::F32> scale, ffi::Buffer<ffi::F32> shift, ffi::ResultBuffer<ffi::F32> y,
               int64_t bits, int64_t group, bool is_signed, int64_t tier) {
  efficient::Poison(y);
  FloatProblem p{};
  const std::string broken = efficient::Checked(x, codes, scale, shift, *y, bits, group, &p);
  if (!broken.empty()) return ffi::Error::InvalidArgument("quantized_matmul: " + broken);
  p.entries = static_cast<int64_t>(table.element_count());
  if (p.entries != 0 && p.entries != 16 && !(p.entries == 256 && bits == 8))
    return ffi::Error::InvalidArgument("quantized_matmul: table must have 16 numbers, 256 of 8 bits, or none");
  p.x = x.typed_data(), p.codes = static_cast<const uint8_t*>(codes.untyped_data());
  p.table = p.entries ? table.typed_data() : nullptr, p.is_signed = is_signed;
  p.scale = scale.typed_data(), p.shift = shift.element_count() ? shift.typed_data() : nullptr;
  p.y = y->typed_data();
  if (p.m == 0 || p.n == 0) return ffi::Error::Success();

  Multiply(p, pool, tier);
  return ffi::Error::Success();
}

// Rows of x in groups that follow one another: whether there is a size for each, and no more rows than there are.
bool AreSizes(const ffi::Buffer<ffi::S32>& sizes, int64_t groups, int64_t rows) {
  const auto d = sizes.dimensions();
  if (d.size() != 1 || d[0] != groups) return false;
  for (int64_t e = 0; e < groups; ++e) {
    rows -= sizes.typed_data()[e];
    if (sizes.typed_data()[e] < 0 || rows < 0) return false;
  }
  return true;
}

ffi::Error Grouped(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> weights,
                   ffi::Buffer<ffi::S32> sizes, ffi::ResultBuffer<ffi::F32> y, int64_t tier) {
  efficient::Poison(y);
  const auto dx = x.dimensions(), dw = weights.dimensions(), dy = y->dimensions();
  if (dx.size() != 2 || dw.size() != 3 || dy.size() != 2 || dw[1] != dx[1] || dy[0] != dx[0] || dy[1] != dw[2])
    return ffi::Error::InvalidArgument("grouped_matmul: shapes of x, weights and y must go together");
  if (!AreSizes(sizes, dw[0], dx[0]))
    return ffi::Error::InvalidArgument("grouped_matmul: sizes must be one for each group, of the rows of x");
  const int64_t k = dx[1], n = dw[2];
  int64_t row = 0;
  for (int64_t e = 0; e < dw[0]; ++e) {
    const int64_t count = sizes.typed_data()[e];
    const float* own = weights.typed_data() + e * k * n;
    const auto decode = [&](int64_t k0, int64_t k1, int64_t n0, int64_t columns, float* tile) {
      for (int64_t i = k0; i < k1; ++i) {
        std::memcpy(tile + (i - k0) * kColumns, own + i * n + n0, columns * sizeof(float));
        std::fill_n(tile + (i - k0) * kColumns + columns, kColumns - columns, 0.0f);
      }
    };
    float* to = y->typed_data() + row * n;
    bool wide = false;
#if EFFICIENT_X86
    wide = efficient::HasAvx512() && tier != 1;
    if (wide && count)
      efficient::Tiled(pool, x.typed_data() + row * k, count, k, n, 0, n, 1, to, decode, efficient::Multiply512);
#endif
    if (!wide && count)
      efficient::Tiled(pool, x.typed_data() + row * k, count, k, n, 0, n, 1, to, decode, efficient::MultiplyAny);
    row += count;
  }
  std::fill_n(y->typed_data() + row * n, (dx[0] - row) * n, 0.0f);
  return ffi::Error::Success();
}

ffi::Error GroupedQuantized(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::S32> sizes,
                            ffi::AnyBuffer codes, ffi::Buffer<ffi::F32> table, ffi::Buffer<ffi::F32> scale,
                            ffi::Buffer<ffi::F32> shift, ffi::ResultBuffer<ffi::F32> y, int64_t bits, int64_t group,
                            bool is_signed, int64_t tier) {
  efficient::Poison(y);
  const auto refused = [](const char* rule) {
    return ffi::Error::InvalidArgument(std::string("grouped_quantized_matmul: ") + rule);
  };
  const auto dx = x.dimensions(), dc = codes.dimensions(), dy = y->dimensions(), ds = scale.dimensions();
  const auto dh = shift.dimensions();
  if (dx.size() != 2 || dc.size() != 3 || dy.size() != 2 || ds.size() != 3 || dh.size() != 3)
    return refused("numbers of axes must be 2, 3, 3, 3 and 2");
  if (codes.element_type() != ffi::U8 && codes.element_type() != ffi::S8) return refused("codes must be bytes");
  if (bits != 2 && bits != 4 && bits != 8) return refused("bits must be 2, 4 or 8");
  if (group < 1) return refused("group must be from 1");
  const int64_t groups = dc[0], k = dx[1], n = dy[1];
  FloatProblem p{};
  p.k = k, p.n = n, p.pitch = dc[2], p.group = std::min(group, std::max<int64_t>(k, 1)), p.bits = bits;
  const int64_t runs = (k + p.group - 1) / p.group;
  const auto fits = [&](const auto& d) { return d[0] == groups && d[1] == runs && (d[2] == n || d[2] == 1); };
  const bool has_shift = shift.element_count() > 0;
  if (dy[0] != dx[0] || dc[1] != k || dc[2] != (n * bits + 7) / 8 || !fits(ds) || (has_shift && !fits(dh)))
    return refused("shapes of x, codes, scale, shift and y must go together");
  if (!AreSizes(sizes, groups, dx[0])) return refused("sizes must be one for each group, of the rows of x");
  p.entries = static_cast<int64_t>(table.element_count());
  if (p.entries != 0 && p.entries != 16 && !(p.entries == 256 && bits == 8))
    return refused("table must have 16 numbers, 256 of 8 bits, or none");
  p.table = p.entries ? table.typed_data() : nullptr, p.is_signed = is_signed;
  p.scale_stride = ds[2] == n ? 1 : 0, p.shift_stride = has_shift && dh[2] == n ? 1 : 0;
  int64_t row = 0;
  for (int64_t e = 0; e < groups; ++e) {
    p.m = sizes.typed_data()[e];
    p.x = x.typed_data() + row * k, p.y = y->typed_data() + row * n;
    p.codes = static_cast<const uint8_t*>(codes.untyped_data()) + e * k * p.pitch;
    p.scale = scale.typed_data() + e * runs * ds[2];
    p.shift = has_shift ? shift.typed_data() + e * runs * dh[2] : nullptr;
    if (p.m && n) Multiply(p, pool, tier);
    row += p.m;
  }
  std::fill_n(y->typed_data() + row * n, (dx[0] - row) * n, 0.0f);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientGroupedMatmul, Grouped,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("tier"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientGroupedQuantizedMatmul, GroupedQuantized,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("group")
                                  .Attr<bool>("is_signed")
                                  .Attr<int64_t>("tier"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientQuantizedMatmul, Run,
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
                                  .Attr<int64_t>("tier"));
