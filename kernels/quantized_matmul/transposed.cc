// y = x W^T on the CPU, W as packed codes of which a row holds what is summed over: W [N, K], codes along K.
//
//   x        float32 [M, K]
//   codes    bytes [N, ceil(K bits / 8)]   of 2, 4 or 8 bits, the first of a byte lowest
//   table    float32 [16 or 256]   the number of each code; or [0]: whole numbers, two's complement if is_signed
//   scale    float32 [N or 1, G]   of each run of `group` columns; G = ceil(K / group)
//   shift    float32 [N or 1, G]   taken off each number before the scale; or [0, 0]
//   x_scale  float32 [1]   of all of x, where it is rounded; or [0]
//   y        float32 [M, N]
//
// Where rounds is 0, x is as it is; 1: it has one step, 2: each row its own. Rows of codes are met plane by plane: the
// first code of every byte, the second, ..., and x is laid out so too.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "arguments.h"
#include "int8_round.h"
#include "int8_vnni.h"
#include "parallel.h"
#include "plane.h"
#include "poison.h"
#include "tile.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using efficient::kColumns;
using F32 = ffi::Buffer<ffi::F32>;

constexpr int64_t kFew = 8;    // rows of x up to which each row of W is decoded once and multiplied with all
constexpr int64_t kStrip = 32;  // rows of W of a task
constexpr int64_t kLanes = 16;

struct Problem {
  const float* x;
  const uint8_t* codes;
  const float *table, *scale, *shift;
  float* y;
  int64_t m, k, n, pitch, group, runs, scale_stride, shift_stride;
  int bits;
  bool is_signed;
  std::vector<float> steps;  // of rows of x; empty: it is not rounded
  std::vector<int8_t> whole;  // x [M, K] in steps
  std::vector<float> turned;  // x [M, planes, pitch] in floats; zeros beyond

  int64_t Many() const { return 8 / bits; }
  int64_t Wide() const { return (Many() * pitch + kLanes - 1) / kLanes * kLanes; }
};

// Bytes b0 to b1 of W's row n as floats, plane by plane.
template <int Bits, bool Signed, bool Wide>
inline __attribute__((always_inline)) void DecodeAs(const Problem& p, int64_t n, int64_t b0, int64_t b1, float* to) {
  constexpr int64_t kMany = 8 / Bits;
  const int64_t each = p.group % kMany == 0 ? p.group / kMany : 0;  // bytes of a run; 0: they differ by plane
  const uint8_t* codes = p.codes + n * p.pitch;
  const float *scale = p.scale + n * p.scale_stride, *shift = p.shift ? p.shift + n * p.shift_stride : nullptr;
  for (int64_t plane = 0; plane < kMany; ++plane) {
    float* out = to + plane * (b1 - b0) - b0;
    const int place = Bits * static_cast<int>(plane);
    int64_t run = std::min((b0 * kMany + plane) / p.group, p.runs - 1);
    for (int64_t begin = b0; begin < b1; ++run) {
      const int64_t after = each ? (run + 1) * each : ((run + 1) * p.group - plane + kMany - 1) / kMany;
      const int64_t end = run + 1 >= p.runs ? b1 : std::max(begin, std::min(b1, after));  // the next run's first byte
      const float by = scale[run], less = shift ? shift[run] : 0.0f;
      if (p.table) {
        for (int64_t j = begin; j < end; ++j) out[j] = (p.table[(codes[j] >> place) & ((1 << Bits) - 1)] - less) * by;
      } else if constexpr (Wide) {
#if EFFICIENT_X86
        efficient::Plane512<Bits, Signed>(codes + begin, end - begin, place, by, less, out + begin);
#endif
      } else {
        efficient::PlaneAny<Bits, Signed>(codes + begin, end - begin, place, by, less, out + begin);
      }
      begin = end;
    }
  }
}

template <bool Wide>
inline __attribute__((always_inline)) void Decode(const Problem& p, int64_t n, int64_t b0, int64_t b1, float* to) {
  if (p.bits == 8)
    return p.is_signed ? DecodeAs<8, true, Wide>(p, n, b0, b1, to) : DecodeAs<8, false, Wide>(p, n, b0, b1, to);
  if (p.bits == 4)
    return p.is_signed ? DecodeAs<4, true, Wide>(p, n, b0, b1, to) : DecodeAs<4, false, Wide>(p, n, b0, b1, to);
  return p.is_signed ? DecodeAs<2, true, Wide>(p, n, b0, b1, to) : DecodeAs<2, false, Wide>(p, n, b0, b1, to);
}

inline __attribute__((always_inline)) float Dot(const float* a, const float* b, int64_t count) {
  float lanes[4 * kLanes] = {};
  int64_t j = 0;
  for (; j + 4 * kLanes <= count; j += 4 * kLanes)
    for (int64_t l = 0; l < 4 * kLanes; ++l) lanes[l] += a[j + l] * b[j + l];
  for (; j < count; j += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += a[j + l] * b[j + l];
  for (int64_t half = 2 * kLanes; half; half /= 2)
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

// Rows n0 to n1 of W with all rows of x, which are few.
template <bool Wide>
inline __attribute__((always_inline)) void Few(const Problem& p, int64_t n0, int64_t n1) {
  std::vector<float> row(p.Wide(), 0.0f);
  for (int64_t n = n0; n < n1; ++n) {
    Decode<Wide>(p, n, 0, p.pitch, row.data());
    for (int64_t m = 0; m < p.m; ++m) p.y[m * p.n + n] = Dot(p.turned.data() + m * p.Wide(), row.data(), p.Wide());
  }
}

EFFICIENT_CLONES void FewAny(const Problem& p, int64_t n0, int64_t n1) { Few<false>(p, n0, n1); }
EFFICIENT_CLONES void DecodeAny(const Problem& p, int64_t n, int64_t b0, int64_t b1, float* to) {
  Decode<false>(p, n, b0, b1, to);
}

#if EFFICIENT_X86

EFFICIENT_AVX512 void Few512(const Problem& p, int64_t n0, int64_t n1) { Few<true>(p, n0, n1); }
EFFICIENT_AVX512 void Decode512(const Problem& p, int64_t n, int64_t b0, int64_t b1, float* to) {
  Decode<true>(p, n, b0, b1, to);
}

// Sums of rows of x over runs, [M, runs].
std::vector<float> RunSums(const Problem& p) {
  std::vector<float> sums(p.m * p.runs, 0.0f);
  for (int64_t m = 0; m < p.m; ++m)
    for (int64_t k = 0; k < p.k; ++k) sums[m * p.runs + k / p.group] += p.x[m * p.k + k];
  return sums;
}

// Row n of W with R rows of x from m on, without a table: numbers stay in registers, a run's sum meets its scale, and
// its shift the sum of x.
template <int Bits, bool Signed, int R>
EFFICIENT_AVX512 void Direct(const Problem& p, const float* sums_of_x, int64_t m, int64_t n) {
  constexpr int kMany = 8 / Bits;
  const __m512i low = _mm512_set1_epi32((1 << Bits) - 1), half = _mm512_set1_epi32(1 << (Bits - 1));
  const uint8_t* codes = p.codes + n * p.pitch;
  const float *scale = p.scale + n * p.scale_stride, *shift = p.shift ? p.shift + n * p.shift_stride : nullptr;
  const int64_t each = p.runs == 1 ? p.pitch : p.group / kMany;
  const float* x = p.turned.data() + m * p.Wide();
  __m512 totals[R];
  for (int r = 0; r < R; ++r) totals[r] = _mm512_setzero_ps();
  for (int64_t run = 0; run < p.runs; ++run) {
    const int64_t end = std::min(p.pitch, (run + 1) * each);
    __m512 parts[R];
    for (int r = 0; r < R; ++r) parts[r] = _mm512_setzero_ps();
    for (int64_t c = run * each; c < end; c += kLanes) {
      const __mmask16 there = end - c >= kLanes ? 0xFFFF : static_cast<__mmask16>((1u << (end - c)) - 1);
      const __m512i bytes = _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(there, codes + c));
      for (int plane = 0; plane < kMany; ++plane) {
        __m512i code = Bits == 8 ? bytes : _mm512_and_si512(_mm512_srli_epi32(bytes, Bits * plane), low);
        if (Signed) code = _mm512_sub_epi32(_mm512_xor_si512(code, half), half);
        const __m512 number = _mm512_cvtepi32_ps(code);
        for (int r = 0; r < R; ++r)
          parts[r] = _mm512_fmadd_ps(number, _mm512_maskz_loadu_ps(there, x + r * p.Wide() + plane * p.pitch + c),
                                     parts[r]);
      }
    }
    const __m512 by = _mm512_set1_ps(scale[run]);
    for (int r = 0; r < R; ++r) totals[r] = _mm512_fmadd_ps(parts[r], by, totals[r]);
  }
  for (int r = 0; r < R; ++r) {
    float out = _mm512_reduce_add_ps(totals[r]);
    for (int64_t run = 0; shift && run < p.runs; ++run)
      out -= shift[run] * scale[run] * sums_of_x[(m + r) * p.runs + run];
    p.y[(m + r) * p.n + n] = out;
  }
}

template <int Bits, bool Signed>
void DirectRows(const Problem& p, const float* sums_of_x, int64_t n0, int64_t n1) {
  for (int64_t n = n0; n < n1; ++n) {
    int64_t m = 0;
    for (; m + 4 <= p.m; m += 4) Direct<Bits, Signed, 4>(p, sums_of_x, m, n);
    for (; m < p.m; ++m) Direct<Bits, Signed, 1>(p, sums_of_x, m, n);
  }
}

void DirectAny(const Problem& p, const float* sums_of_x, int64_t n0, int64_t n1) {
  if (p.bits == 8)
    return p.is_signed ? DirectRows<8, true>(p, sums_of_x, n0, n1) : DirectRows<8, false>(p, sums_of_x, n0, n1);
  if (p.bits == 4)
    return p.is_signed ? DirectRows<4, true>(p, sums_of_x, n0, n1) : DirectRows<4, false>(p, sums_of_x, n0, n1);
  return p.is_signed ? DirectRows<2, true>(p, sums_of_x, n0, n1) : DirectRows<2, false>(p, sums_of_x, n0, n1);
}

#endif  // EFFICIENT_X86

// Many rows of x: y^T = W x^T, a lane for each of 64 rows of x, which are turned once, in the order of planes.
template <typename Row, typename Multiply>
void Many(const Problem& p, ffi::ThreadPool& pool, const Row& decode, const Multiply& multiply) {
  const int64_t many = p.Many(), piece = 256 / many, pieces = (p.pitch + piece - 1) / piece;
  const int64_t across = (p.m + kColumns - 1) / kColumns, strips = (p.n + kColumns - 1) / kColumns;
  std::vector<float> turned(across * pieces * 256 * kColumns, 0.0f);
  const auto place = [&](int64_t block, int64_t k) {
    const int64_t byte = k / many, first = byte / piece * piece, wide = std::min(piece, p.pitch - first);
    return turned.data() + ((block * pieces + byte / piece) * 256 + k % many * wide + byte - first) * kColumns;
  };
  efficient::ParallelFor(pool, across, 4 * p.m * p.k, [&](int64_t block) {
    const int64_t rows = std::min(kColumns, p.m - block * kColumns);
    for (int64_t k = 0; k < p.k; ++k) {
      float* to = place(block, k);
      for (int64_t j = 0; j < rows; ++j) to[j] = p.x[(block * kColumns + j) * p.k + k];
    }
  });
  efficient::ParallelFor(pool, strips, p.m * p.n * p.k, [&](int64_t strip) {
    const int64_t n0 = strip * kColumns, count = std::min(kColumns, p.n - n0);
    std::vector<float> rows(count * 256), sums(across * count * kColumns, 0.0f);
    for (int64_t i = 0; i < pieces; ++i) {
      const int64_t b0 = i * piece, b1 = std::min(p.pitch, b0 + piece), depth = many * (b1 - b0);
      for (int64_t j = 0; j < count; ++j) decode(n0 + j, b0, b1, rows.data() + j * depth);
      for (int64_t block = 0; block < across; ++block)
        multiply(rows.data(), depth, 1, count, depth, turned.data() + (block * pieces + i) * 256 * kColumns,
                 sums.data() + block * count * kColumns);
    }
    for (int64_t m = 0; m < p.m; ++m)
      for (int64_t j = 0; j < count; ++j)
        p.y[m * p.n + n0 + j] = sums[(m / kColumns * count + j) * kColumns + m % kColumns];
  });
}

#if EFFICIENT_X86

constexpr int64_t kBytes = 64;  // of a row of codes at once

// x in steps, [chunks][planes][64] for each row, and its sums over runs.
struct Planes {
  std::vector<int8_t> values;
  std::vector<float> sums;
  int64_t chunks;

  explicit Planes(const Problem& p) : chunks((p.pitch + kBytes - 1) / kBytes) {
    const int64_t many = p.Many();
    values.assign(p.m * chunks * many * kBytes, 0), sums.assign(p.m * p.runs, 0.0f);
    for (int64_t m = 0; m < p.m; ++m)
      for (int64_t k = 0; k < p.k; ++k) {
        const int8_t value = p.whole[m * p.k + k];
        const int64_t byte = k / many, plane = k % many;
        values[((m * chunks + byte / kBytes) * many + plane) * kBytes + byte % kBytes] = value;
        sums[m * p.runs + k / p.group] += value;
      }
  }
};

// Whether a quad of bytes lies in one run, and runs of a chunk are laid out by a rule.
bool IsEven(const Problem& p) {
  const int64_t quads = p.group * p.bits / 32;
  if (p.runs == 1) return true;
  return p.group * p.bits % 32 == 0 && (quads >= kLanes ? quads % kLanes == 0 : kLanes % quads == 0);
}

// The scale of each quad of bytes of a chunk.
EFFICIENT_VNNI inline __m512 Scales(const Problem& p, const float* scale, int64_t chunk, int64_t quads, __m512i lane) {
  if (p.runs == 1) return _mm512_set1_ps(scale[0]);
  if (quads >= kLanes) return _mm512_set1_ps(scale[chunk * kLanes / quads]);
  const int64_t first = chunk * (kLanes / quads), left = p.runs - first;
  const __mmask16 there = left >= kLanes ? 0xFFFF : static_cast<__mmask16>((1u << left) - 1);
  return _mm512_permutexvar_ps(lane, _mm512_maskz_loadu_ps(there, scale + first));
}

// Row n of W with R rows of x from m on.
template <int Bits, int R>
EFFICIENT_VNNI void Rows(const Problem& p, const Planes& x, int64_t m, int64_t n) {
  constexpr int kMany = 8 / Bits;
  const uint8_t* codes = p.codes + n * p.pitch;
  const float *scale = p.scale + n * p.scale_stride, *shift = p.shift ? p.shift + n * p.shift_stride : nullptr;
  const int64_t quads = std::max<int64_t>(1, p.group * Bits / 32);
  alignas(64) int32_t of_lane[kLanes];
  for (int64_t l = 0; l < kLanes; ++l) of_lane[l] = static_cast<int32_t>(l / quads);
  const __m512i lane = _mm512_load_si512(of_lane), low = _mm512_set1_epi8((1 << Bits) - 1);
  const __m512i flip = efficient::Flip<Bits>(p.is_signed);
  // Chunks whose sums are one run's; no more than what int32 holds, and float32 exactly: 16 * 16 * 255 * 127 < 2^24.
  const int64_t whole = p.runs == 1 ? 16 : quads % (16 * kLanes) == 0 ? 16 : std::max<int64_t>(1, quads / kLanes);
  __m512 sums[R];
  __m512i made[R];
  for (int r = 0; r < R; ++r) sums[r] = _mm512_setzero_ps(), made[r] = _mm512_setzero_si512();
  for (int64_t c = 0; c < x.chunks; ++c) {
    const int64_t left = p.pitch - c * kBytes;
    const __mmask64 there = left >= kBytes ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    const __m512i bytes = _mm512_xor_si512(_mm512_maskz_loadu_epi8(there, codes + c * kBytes), flip);
    for (int r = 0; r < R; ++r) {
      const int8_t* own = x.values.data() + ((m + r) * x.chunks + c) * kMany * kBytes;
      for (int plane = 0; plane < kMany; ++plane) {
        const __m512i code = Bits == 8 ? bytes : _mm512_and_si512(_mm512_srli_epi16(bytes, Bits * plane), low);
        made[r] = _mm512_dpbusd_epi32(made[r], code, _mm512_loadu_si512(own + plane * kBytes));
      }
    }
    if ((c + 1) % whole && c + 1 < x.chunks) continue;  // more of the same run is to come
    const __m512 by = Scales(p, scale, c, quads, lane);
    for (int r = 0; r < R; ++r) {
      sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(made[r]), by, sums[r]);
      made[r] = _mm512_setzero_si512();
    }
  }
  const float base = p.is_signed ? static_cast<float>(1 << (Bits - 1)) : 0.0f;
  for (int r = 0; r < R; ++r) {
    float out = _mm512_reduce_add_ps(sums[r]);
    if (shift || p.is_signed) {
      const float* of_x = x.sums.data() + (m + r) * p.runs;
      __m512 off = _mm512_setzero_ps();
      for (int64_t run = 0; run < p.runs; run += kLanes) {
        const __mmask16 some = p.runs - run >= kLanes ? 0xFFFF : static_cast<__mmask16>((1u << (p.runs - run)) - 1);
        __m512 less = _mm512_set1_ps(base);
        if (shift) less = _mm512_add_ps(less, _mm512_maskz_loadu_ps(some, shift + run));
        const __m512 part = _mm512_mul_ps(less, _mm512_maskz_loadu_ps(some, scale + run));
        off = _mm512_mask3_fmadd_ps(part, _mm512_maskz_loadu_ps(some, of_x + run), off, some);
      }
      out -= _mm512_reduce_add_ps(off);
    }
    p.y[(m + r) * p.n + n] = out * p.steps[m + r];
  }
}

template <int Bits>
void RunIntegers(const Problem& p, ffi::ThreadPool& pool) {
  const Planes x(p);
  const int64_t tasks = (p.n + kStrip - 1) / kStrip;
  efficient::ParallelFor(pool, tasks, p.m * p.n / 2 * p.k, [&](int64_t i) {
    for (int64_t n = i * kStrip; n < std::min(p.n, (i + 1) * kStrip); ++n) {
      int64_t m = 0;
      for (; m + 4 <= p.m; m += 4) Rows<Bits, 4>(p, x, m, n);
      for (; m < p.m; ++m) Rows<Bits, 1>(p, x, m, n);
    }
  });
}

#endif  // EFFICIENT_X86

// x in whole steps; as `RoundRow`.
void Round(Problem& p, const float* fixed, bool per_row, bool wide) {
  p.steps.assign(p.m, 0.0f), p.whole.assign(p.m * p.k, 0);
  std::vector<uint32_t> tops(p.m);
  for (int64_t m = 0; m < p.m; ++m) tops[m] = efficient::Top(p.x + m * p.k, p.k, wide);
  if (!fixed && !per_row) std::fill(tops.begin(), tops.end(), *std::max_element(tops.begin(), tops.end()));
  for (int64_t m = 0; m < p.m; ++m) {
    float by = 0.0f;
    p.steps[m] = efficient::StepOf(tops[m], fixed, &by);
    if (!std::isnan(p.steps[m])) efficient::RoundAny(p.x + m * p.k, p.k, by, p.whole.data() + m * p.k);
  }
}

void RunFloats(const Problem& p, ffi::ThreadPool& pool, bool wide) {
  if (p.m <= kFew) {
    std::vector<float> sums;
    bool direct = false;
#if EFFICIENT_X86
    direct = wide && !p.table && (p.runs == 1 || p.group % p.Many() == 0);
    if (direct && p.shift) sums = RunSums(p);
#endif
    efficient::ParallelFor(pool, (p.n + kStrip - 1) / kStrip, p.m * p.n * p.k, [&](int64_t i) {
      const int64_t n0 = i * kStrip, n1 = std::min(p.n, n0 + kStrip);
#if EFFICIENT_X86
      if (direct) return DirectAny(p, sums.data(), n0, n1);
      if (wide) return Few512(p, n0, n1);
#endif
      FewAny(p, n0, n1);
    });
    return;
  }
#if EFFICIENT_X86
  if (wide) {
    const auto decode = [&](int64_t n, int64_t b0, int64_t b1, float* to) { Decode512(p, n, b0, b1, to); };
    if (p.m <= 16) return Many(p, pool, decode, efficient::MultiplyNarrow512<1>);
    if (p.m <= 32) return Many(p, pool, decode, efficient::MultiplyNarrow512<2>);
    return Many(p, pool, decode, efficient::Multiply512);
  }
#endif
  Many(p, pool, [&](int64_t n, int64_t b0, int64_t b1, float* to) { DecodeAny(p, n, b0, b1, to); },
       efficient::MultiplyAny);
}

ffi::Error Run(ffi::ThreadPool pool, F32 x, ffi::AnyBuffer codes, F32 table, F32 scale, F32 shift, F32 x_scale,
               ffi::ResultBuffer<ffi::F32> y, int64_t bits, int64_t group, bool is_signed, int64_t rounds,
               int64_t tier) {
  efficient::Poison(y);
  const auto dx = x.dimensions(), dc = codes.dimensions(), dy = y->dimensions(), ds = scale.dimensions();
  const auto dh = shift.dimensions();
  const auto refused = [](const std::string& rule) { return ffi::Error::InvalidArgument("transposed_matmul: " + rule); };
  if (dx.size() != 2 || dc.size() != 2 || dy.size() != 2 || ds.size() != 2 || dh.size() != 2)
    return refused("x, codes, scale, shift and y must have two axes");
  if (codes.element_type() != ffi::U8 && codes.element_type() != ffi::S8) return refused("codes must be bytes");
  if (bits != 2 && bits != 4 && bits != 8) return refused("bits must be 2, 4 or 8, got " + std::to_string(bits));
  if (group < 1 || rounds < 0 || rounds > 2) return refused("group must be from 1, rounds from 0 to 2");
  Problem p{};
  p.m = dx[0], p.k = dx[1], p.n = dc[0], p.pitch = dc[1], p.bits = static_cast<int>(bits);
  p.group = std::min(group, std::max<int64_t>(p.k, 1)), p.runs = (p.k + p.group - 1) / p.group;
  if (dy[0] != p.m || dy[1] != p.n || p.pitch != (p.k * bits + 7) / 8)
    return refused("shapes of x, codes and y must go together");
  const auto fits = [&](const auto& d) { return (d[0] == p.n || d[0] == 1) && d[1] == p.runs; };
  const bool has_shift = shift.element_count() > 0;
  if (!fits(ds) || (has_shift && !fits(dh))) return refused("scale and shift must be [rows or 1, runs of columns]");
  const int64_t entries = static_cast<int64_t>(table.element_count());
  if (entries != 0 && entries != (int64_t{1} << bits)) return refused("table must have a number for each code, or none");
  if (x_scale.element_count() > 1) return refused("x_scale must be one number, or empty");
  p.scale_stride = ds[0] == 1 ? 0 : p.runs, p.shift_stride = dh[0] == 1 ? 0 : p.runs;
  p.x = x.typed_data(), p.codes = static_cast<const uint8_t*>(codes.untyped_data()), p.y = y->typed_data();
  p.table = entries ? table.typed_data() : nullptr, p.scale = scale.typed_data();
  p.shift = has_shift ? shift.typed_data() : nullptr, p.is_signed = is_signed;
  if (p.m == 0 || p.n == 0) return ffi::Error::Success();
  if (p.k == 0) {
    std::fill_n(p.y, p.m * p.n, 0.0f);
    return ffi::Error::Success();
  }
  bool wide = false;
#if EFFICIENT_X86
  wide = efficient::HasAvx512() && tier != 1;
#endif
  if (rounds) Round(p, x_scale.element_count() ? x_scale.typed_data() : nullptr, rounds == 2, wide);
#if EFFICIENT_X86
  if (rounds && wide && !p.table && efficient::HasVnni() && IsEven(p)) {
    if (bits == 2) RunIntegers<2>(p, pool);
    if (bits == 4) RunIntegers<4>(p, pool);
    if (bits == 8) RunIntegers<8>(p, pool);
    return ffi::Error::Success();
  }
#endif
  std::vector<float> whole;
  if (rounds) {
    whole.assign(p.whole.begin(), p.whole.end());
    p.x = whole.data();
  }
  if (p.m <= kFew) {
    p.turned.assign(p.m * p.Wide(), 0.0f);
    for (int64_t m = 0; m < p.m; ++m)
      for (int64_t k = 0; k < p.k; ++k)
        p.turned[m * p.Wide() + k % p.Many() * p.pitch + k / p.Many()] = p.x[m * p.k + k];
  }
  RunFloats(p, pool, wide);
  for (int64_t m = 0; rounds && m < p.m; ++m)
    for (int64_t n = 0; n < p.n; ++n) p.y[m * p.n + n] *= p.steps[m];
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientTransposedMatmul, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("group")
                                  .Attr<bool>("is_signed")
                                  .Attr<int64_t>("rounds")
                                  .Attr<int64_t>("tier"));
