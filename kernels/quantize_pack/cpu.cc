// Whole numbers of a few bits with a scale for each run, packed, in one or two readings of what is in cache.
//
//   x      float32 [R, K, N]
//   codes  uint8 [R, K, ceil(N bits / 8)]   the first of a byte lowest
//   scale  float32 [R, runs, N] for runs along K (axis 1), or [R, K, runs] along N (axis 2)
//   shift  the same: codes are unsigned; or [0, 0, 0]: two's complement

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "instructions.h"
#include "parallel.h"
#include "poison.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr float kTiny = std::numeric_limits<float>::min();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kLanes = 16;
constexpr int64_t kStrip = 256;  // columns of a task, for runs along K; whole bytes

struct Problem {
  const float* x;
  uint8_t* codes;
  float* scale;
  float* shift;  // nullptr: symmetric
  int64_t r, k, n, group, pitch;
  int bits;
  float most, low;
};

// The range of a run, as numbers that are compared; a nan makes both nan.
struct Range {
  float bottom, top;
};

// The whole number nearest, ties to the even.
inline __attribute__((always_inline)) float Nearest(float v) { return __builtin_rintf(v); }

// What a range makes of a run: its scale, what numbers are multiplied by, and the code of 0.
struct Step {
  float scale, by, shift;
};

inline Step StepOf(const Problem& p, float bottom, float top) {
  const float scale = (p.shift ? top - bottom : top) * static_cast<float>(1.0 / p.most);
  if (scale < kTiny) return {0.0f, 0.0f, 0.0f};
  const float by = 1.0f / scale;  // products alone from here on: every tier rounds them alike
  return {scale, by, p.shift ? Nearest(-bottom * by) : 0.0f};
}

// The magnitude's top, or the range with 0; in lanes, so that a compiler can keep them in one register.
inline __attribute__((always_inline)) Range RangeOf(const float* x, int64_t count, bool symmetric) {
  float low[kLanes] = {}, high[kLanes] = {}, odd[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) {
      const float v = symmetric ? std::fabs(x[i + l]) : x[i + l];
      high[l] = v > high[l] ? v : high[l];
      low[l] = v < low[l] ? v : low[l];
      odd[l] += 0.0f * v;  // nan, where v is not finite
    }
  for (; i < count; ++i) {
    const float v = symmetric ? std::fabs(x[i]) : x[i];
    high[0] = v > high[0] ? v : high[0];
    low[0] = v < low[0] ? v : low[0];
    odd[0] += 0.0f * v;
  }
  Range range{0.0f, 0.0f};
  float all = 0.0f;
  for (int64_t l = 0; l < kLanes; ++l) {
    range.top = std::max(range.top, high[l]), range.bottom = std::min(range.bottom, low[l]);
    all += odd[l];
  }
  if (std::isnan(all)) range = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::quiet_NaN()};
  return range;
}

// The code of a number; what is not finite, or in a run that has such, is 0.
inline __attribute__((always_inline)) int32_t CodeOf(const Problem& p, float x, float by, float shift) {
  float v = Nearest(x * by) + shift;
  v = std::fabs(v) < kInfinity ? v : 0.0f;
  v = v < p.low ? p.low : v;
  return static_cast<int32_t>(v > p.most ? p.most : v);
}

// Codes of `count` numbers, each with its own step or one for all, into bytes; begins at a whole byte.
template <bool Each>
inline __attribute__((always_inline)) void Codes(const Problem& p, const float* x, int64_t count, const float* by,
                                                 const float* shift, uint8_t* to) {
  const int many = 8 / p.bits, mask = (1 << p.bits) - 1;
  constexpr int64_t kAtOnce = 64;
  for (int64_t i = 0; i < count; i += kAtOnce) {
    const int64_t here = std::min(kAtOnce, count - i);
    int32_t whole[kAtOnce] = {};
    if (here == kAtOnce) {
      for (int64_t j = 0; j < kAtOnce; ++j)
        whole[j] = CodeOf(p, x[i + j], by[Each ? i + j : 0], shift[Each ? i + j : 0]) & mask;
    } else {
      for (int64_t j = 0; j < here; ++j)
        whole[j] = CodeOf(p, x[i + j], by[Each ? i + j : 0], shift[Each ? i + j : 0]) & mask;
    }
    uint8_t* bytes = to + i / many;
    const int64_t wide = (here + many - 1) / many;
    if (p.bits == 8)
      for (int64_t j = 0; j < wide; ++j) bytes[j] = static_cast<uint8_t>(whole[j]);
    else if (p.bits == 4)
      for (int64_t j = 0; j < wide; ++j) bytes[j] = static_cast<uint8_t>(whole[2 * j] | whole[2 * j + 1] << 4);
    else
      for (int64_t j = 0; j < wide; ++j)
        bytes[j] = static_cast<uint8_t>(whole[4 * j] | whole[4 * j + 1] << 2 | whole[4 * j + 2] << 4 |
                                        whole[4 * j + 3] << 6);
  }
}

// One row [N], runs along it. Runs that do not begin at a whole byte give each number its own step.
inline __attribute__((always_inline)) void Along(const Problem& p, int64_t row) {
  const float* x = p.x + row * p.n;
  uint8_t* codes = p.codes + row * p.pitch;
  const int64_t runs = (p.n + p.group - 1) / p.group;
  const bool whole = runs == 1 || p.group * p.bits % 8 == 0;
  std::vector<float> by(whole ? 0 : p.n), shift(whole ? 0 : p.n);
  for (int64_t run = 0; run < runs; ++run) {
    const int64_t n0 = run * p.group, count = std::min(p.group, p.n - n0);
    const Range range = RangeOf(x + n0, count, !p.shift);
    const Step step = StepOf(p, range.bottom, range.top);
    p.scale[row * runs + run] = step.scale;
    if (p.shift) p.shift[row * runs + run] = step.shift;
    if (whole) {
      Codes<false>(p, x + n0, count, &step.by, &step.shift, codes + n0 * p.bits / 8);
    } else {
      std::fill_n(by.data() + n0, count, step.by);
      std::fill_n(shift.data() + n0, count, step.shift);
    }
  }
  if (!whole) Codes<true>(p, x, p.n, by.data(), shift.data(), codes);
}

// Columns n0 on of one run of rows, at most kStrip of them.
inline __attribute__((always_inline)) void Across(const Problem& p, int64_t matrix, int64_t run, int64_t n0) {
  const int64_t count = std::min(kStrip, p.n - n0), k0 = run * p.group, k1 = std::min(p.k, k0 + p.group);
  const int64_t runs = (p.k + p.group - 1) / p.group;
  float low[kStrip] = {}, high[kStrip] = {}, odd[kStrip] = {}, by[kStrip], shift[kStrip];
  const bool symmetric = !p.shift;
  for (int64_t k = k0; k < k1; ++k) {
    const float* x = p.x + (matrix * p.k + k) * p.n + n0;
    for (int64_t j = 0; j < count; ++j) {
      const float v = symmetric ? std::fabs(x[j]) : x[j];
      high[j] = v > high[j] ? v : high[j];
      low[j] = v < low[j] ? v : low[j];
      odd[j] += 0.0f * v;
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    const Step step = StepOf(p, low[j] + odd[j], high[j] + odd[j]);
    by[j] = step.by, shift[j] = step.shift;
    p.scale[(matrix * runs + run) * p.n + n0 + j] = step.scale;
    if (p.shift) p.shift[(matrix * runs + run) * p.n + n0 + j] = step.shift;
  }
  for (int64_t k = k0; k < k1; ++k)
    Codes<true>(p, p.x + (matrix * p.k + k) * p.n + n0, count, by, shift,
                p.codes + (matrix * p.k + k) * p.pitch + n0 * p.bits / 8);
}

EFFICIENT_CLONES void AlongAny(const Problem& p, int64_t row) { Along(p, row); }
EFFICIENT_CLONES void AcrossAny(const Problem& p, int64_t m, int64_t run, int64_t n0) { Across(p, m, run, n0); }
#if EFFICIENT_X86
EFFICIENT_AVX512 void Along512(const Problem& p, int64_t row) { Along(p, row); }
EFFICIENT_AVX512 void Across512(const Problem& p, int64_t m, int64_t run, int64_t n0) { Across(p, m, run, n0); }
#endif

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::U8> codes,
               ffi::ResultBuffer<ffi::F32> scale, ffi::ResultBuffer<ffi::F32> shift, int64_t bits, int64_t group,
               int64_t axis, int64_t tier) {
  efficient::Poison(codes, scale, shift);
  const auto dx = x.dimensions(), dc = codes->dimensions(), ds = scale->dimensions(), dh = shift->dimensions();
  if (dx.size() != 3 || dc.size() != 3 || ds.size() != 3 || dh.size() != 3)
    return ffi::Error::InvalidArgument("quantize_pack: x, codes, scale and shift must have three axes");
  if (bits != 2 && bits != 4 && bits != 8) return ffi::Error::InvalidArgument("quantize_pack: bits must be 2, 4 or 8");
  if ((axis != 1 && axis != 2) || group < 1 || group > std::max<int64_t>(1, dx[axis]))
    return ffi::Error::InvalidArgument("quantize_pack: axis must be 1 or 2, group from 1 to its size");
  Problem p{};
  p.r = dx[0], p.k = dx[1], p.n = dx[2], p.group = group, p.bits = static_cast<int>(bits);
  p.pitch = (p.n * bits + 7) / 8;
  const int64_t runs = (dx[axis] + group - 1) / group;
  const auto fits = [&](const auto& d) {
    return d[0] == p.r && d[1] == (axis == 1 ? runs : p.k) && d[2] == (axis == 2 ? runs : p.n);
  };
  const bool symmetric = shift->element_count() == 0;
  if (dc[0] != p.r || dc[1] != p.k || dc[2] != p.pitch || !fits(ds) || (!symmetric && !fits(dh)))
    return ffi::Error::InvalidArgument("quantize_pack: shapes of x, codes, scale and shift must go together");
  p.x = x.typed_data(), p.codes = codes->typed_data(), p.scale = scale->typed_data();
  p.shift = symmetric ? nullptr : shift->typed_data();
  p.most = static_cast<float>(symmetric ? (1 << (bits - 1)) - 1 : (1 << bits) - 1);
  p.low = symmetric ? -p.most : 0.0f;
  if (p.r == 0 || p.k == 0 || p.n == 0) return ffi::Error::Success();
  bool wide = false;
#if EFFICIENT_X86
  wide = efficient::HasAvx512() && tier != 1;
#endif
  const int64_t work = 8 * p.r * p.k * p.n;
  if (axis == 2) {
    const int64_t rows = p.r * p.k, each = std::max<int64_t>(1, 8192 / p.n), tasks = (rows + each - 1) / each;
    efficient::ParallelFor(pool, tasks, work, [&](int64_t task) {
      for (int64_t row = task * each; row < std::min(rows, (task + 1) * each); ++row) {
#if EFFICIENT_X86
        if (wide) {
          Along512(p, row);
          continue;
        }
#endif
        AlongAny(p, row);
      }
    });
    return ffi::Error::Success();
  }
  const int64_t strips = (p.n + kStrip - 1) / kStrip;
  efficient::ParallelFor(pool, p.r * runs * strips, work, [&](int64_t i) {
    const int64_t strip = i % strips, run = i / strips % runs, matrix = i / strips / runs;
#if EFFICIENT_X86
    if (wide) return Across512(p, matrix, run, strip * kStrip);
#endif
    AcrossAny(p, matrix, run, strip * kStrip);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientQuantizePack, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("group")
                                  .Attr<int64_t>("axis")
                                  .Attr<int64_t>("tier"));
