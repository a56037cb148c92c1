// Attention of one token over a cache on the CPU: keys and values are decoded row by row, as they are kept.
//
//   q, out          float32 [B, H, D]
//   keys, values    [N, P, G, W]   float32, bfloat16 or float16, W = D; or bytes, W = ceil(D bits / 8)
//   scale, shift    float32 [N, P, G, R]   of runs of D / R numbers; shift [0, 0, 0, 0]: two's complement; scale
//                   [0, 0, 0, 0]: floats
//   lengths         int32 [B]   keys of a sequence; what lies beyond is not read
//   pages           int32 [B, M]   the page of each P keys in turn, 0 to N - 1
//
// A row is decoded plane by plane: the first number of every byte, the second, ... Queries are laid out so too, and
// the result is put back in order at the end.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "parallel.h"
#include "plane.h"
#include "poison.h"
#include "scores.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using efficient::Exp;
using efficient::kNever;
using F32 = ffi::Buffer<ffi::F32>;

constexpr int64_t kBlock = 64;   // keys whose weights are made at once
constexpr int64_t kLanes = 16;   // partial sums of a product
constexpr int64_t kLeast = 128;  // keys that are worth a task

// Keys, or values.
struct Cache {
  const uint8_t* data;
  const float *scale, *shift;
  int64_t wide, runs;  // bytes of a row; runs of it, 0 for floats
  int bits;            // of a code; or 32, 16 (bfloat16), -16 (float16)

  int64_t Planes() const { return runs ? 8 / bits : 1; }
};

struct Problem {
  const float* q;
  Cache keys, values;
  const int32_t *lengths, *pages;
  int64_t b, h, d, n, p, g, m, window, sinks;
  float scale;

  int64_t Length(int64_t batch) const { return std::min<int64_t>(std::max(lengths[batch], 0), m * p); }
};

// The bits of a float32 of the same value.
inline __attribute__((always_inline)) uint32_t OfHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, rest = half & 0x7FFFu;
  const uint32_t bits = (rest << 13) + (rest >= 0x7C00u ? 0x70000000u : 0x38000000u);
  const float small = static_cast<float>(static_cast<int32_t>(rest)) * 5.9604645e-8f;
  uint32_t of_small;
  std::memcpy(&of_small, &small, 4);
  return sign | (rest < 0x400u ? of_small : bits);
}

template <int Bits, bool Signed, bool Wide>
inline __attribute__((always_inline)) void Plane(const uint8_t* codes, int64_t count, int plane, float by, float less,
                                                 float* to) {
#if EFFICIENT_X86
  if constexpr (Wide) return efficient::Plane512<Bits, Signed>(codes, count, Bits * plane, by, less, to);
#endif
  efficient::PlaneAny<Bits, Signed>(codes, count, Bits * plane, by, less, to);
}

// Row `row` of a cache, as floats, plane by plane.
template <int Bits, bool Signed, bool Wide>
inline __attribute__((always_inline)) void Decode(const Cache& c, int64_t row, int64_t size, float* to) {
  const uint8_t* from = c.data + row * c.wide;
  if constexpr (Bits == 32) {
    std::memcpy(to, from, c.wide);
  } else if constexpr (Bits == 16 || Bits == -16) {
    typedef uint32_t __attribute__((may_alias)) Word;
    const uint16_t* halves = reinterpret_cast<const uint16_t*>(from);
    Word* words = reinterpret_cast<Word*>(to);
    for (int64_t j = 0; j < size; ++j) words[j] = Bits == -16 ? OfHalf(halves[j]) : uint32_t{halves[j]} << 16;
  } else {
    constexpr int kPlanes = 8 / Bits;
    const float *scale = c.scale + row * c.runs, *shift = Signed ? nullptr : c.shift + row * c.runs;
    const int64_t run = size / c.runs;
    for (int plane = 0; plane < kPlanes; ++plane) {
      float* out = to + plane * c.wide;
      if (c.runs == 1) {
        Plane<Bits, Signed, Wide>(from, c.wide, plane, scale[0], Signed ? 0.0f : shift[0], out);
      } else if (run % kPlanes == 0) {
        const int64_t each = run / kPlanes;
        for (int64_t r = 0; r < c.runs; ++r)
          Plane<Bits, Signed, Wide>(from + r * each, each, plane, scale[r], Signed ? 0.0f : shift[r], out + r * each);
      } else {
        for (int64_t j = 0; j < c.wide; ++j) {
          const int64_t r = std::min((kPlanes * j + plane) / run, c.runs - 1);
          Plane<Bits, Signed, Wide>(from + j, 1, plane, scale[r], Signed ? 0.0f : shift[r], out + j);
        }
      }
    }
  }
}

template <typename Run>
inline __attribute__((always_inline)) void ByKind(const Cache& c, const Run& run) {
  if (c.bits == 32) return run.template operator()<32, true>();
  if (c.bits == 16) return run.template operator()<16, true>();
  if (c.bits == -16) return run.template operator()<-16, true>();
  const bool is_signed = !c.shift;
  if (c.bits == 8) return is_signed ? run.template operator()<8, true>() : run.template operator()<8, false>();
  if (c.bits == 4) return is_signed ? run.template operator()<4, true>() : run.template operator()<4, false>();
  return is_signed ? run.template operator()<2, true>() : run.template operator()<2, false>();
}

inline __attribute__((always_inline)) float Dot(const float* a, const float* b, int64_t count) {
  float lanes[kLanes] = {};
  for (int64_t j = 0; j < count; j += kLanes)
    for (int64_t l = 0; l < kLanes; ++l) lanes[l] += a[j + l] * b[j + l];
  for (int64_t half = kLanes / 2; half; half /= 2)
    for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

// What a task makes of its keys: for each head, a top, a total, and sums of values.
struct Part {
  std::vector<float> top, total, sums;
};

// Some keys of a sequence, for all heads: rows are read in the order in which they lie.
struct Task {
  const Problem& p;
  int64_t heads, wide_k, wide_v;  // heads of a group; floats of a decoded row, whole lanes
  Part* part;
  std::vector<float> queries, row, weights;
  std::vector<int64_t> lines;  // of the keys of a block, in the cache
};

// weights[head][key] of the block: scores.
template <int Bits, bool Signed, bool Wide>
inline __attribute__((always_inline)) void Score(Task& t) {
  const int64_t keys = static_cast<int64_t>(t.lines.size());
  for (int64_t i = 0; i < keys; ++i)
    for (int64_t group = 0; group < t.p.g; ++group) {
      Decode<Bits, Signed, Wide>(t.p.keys, t.lines[i] * t.p.g + group, t.p.d, t.row.data());
      for (int64_t head = group * t.heads; head < (group + 1) * t.heads; ++head)
        t.weights[head * kBlock + i] = Dot(t.queries.data() + head * t.wide_k, t.row.data(), t.wide_k);
    }
}

// Scores into weights; earlier sums are brought to the new tops.
inline __attribute__((always_inline)) void Weigh(Task& t) {
  const int64_t keys = static_cast<int64_t>(t.lines.size());
  for (int64_t head = 0; head < t.p.h; ++head) {
    float *weights = t.weights.data() + head * kBlock, *sums = t.part->sums.data() + head * t.wide_v;
    float top = t.part->top[head], total = 0.0f;
    for (int64_t i = 0; i < keys; ++i) top = weights[i] > top ? weights[i] : top;
    for (int64_t i = 0; i < keys; ++i) weights[i] = Exp(weights[i] - top);
    for (int64_t i = 0; i < keys; ++i) total += weights[i];
    const float keep = Exp(t.part->top[head] - top);
    for (int64_t j = 0; j < t.wide_v; ++j) sums[j] *= keep;
    t.part->total[head] = t.part->total[head] * keep + total, t.part->top[head] = top;
  }
}

template <int Bits, bool Signed, bool Wide>
inline __attribute__((always_inline)) void Gather(Task& t) {
  const int64_t keys = static_cast<int64_t>(t.lines.size());
  for (int64_t i = 0; i < keys; ++i)
    for (int64_t group = 0; group < t.p.g; ++group) {
      Decode<Bits, Signed, Wide>(t.p.values, t.lines[i] * t.p.g + group, t.p.d, t.row.data());
      for (int64_t head = group * t.heads; head < (group + 1) * t.heads; ++head) {
        const float weight = t.weights[head * kBlock + i];
        float* sums = t.part->sums.data() + head * t.wide_v;
        for (int64_t j = 0; j < t.wide_v; j += kLanes)
          for (int64_t l = 0; l < kLanes; ++l) sums[j + l] += weight * t.row[j + l];
      }
    }
}

template <bool Wide>
inline __attribute__((always_inline)) void Block(Task& t) {
  std::fill(t.row.begin(), t.row.end(), 0.0f);  // what lies beyond a row of either is 0
  ByKind(t.p.keys, [&]<int Bits, bool Signed>() __attribute__((always_inline)) { Score<Bits, Signed, Wide>(t); });
  Weigh(t);
  ByKind(t.p.values, [&]<int Bits, bool Signed>() __attribute__((always_inline)) { Gather<Bits, Signed, Wide>(t); });
  t.lines.clear();
}

EFFICIENT_CLONES void BlockAny(Task& t) { Block<false>(t); }
#if EFFICIENT_X86
EFFICIENT_AVX512 void Block512(Task& t) { Block<true>(t); }
#endif

inline int64_t Whole(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// Numbers of a plane of a row.
inline int64_t OfPlane(const Cache& c, int64_t d) { return c.runs ? c.wide : d; }

// Keys `from` to `to` of those that the token sees, in order; false: a page that is not there.
bool Run(const Problem& p, int64_t batch, int64_t from, int64_t to, bool wide, Part* part) {
  const int64_t many = p.keys.Planes(), of_plane = OfPlane(p.keys, p.d), length = p.Length(batch);
  const int64_t begin = p.window ? std::max<int64_t>(length - p.window, 0) : 0, sinks = std::min(p.sinks, begin);
  Task t{p, p.h / p.g, Whole(many * of_plane), Whole(p.values.Planes() * OfPlane(p.values, p.d)), part};
  t.queries.assign(p.h * t.wide_k, 0.0f), t.row.resize(std::max(t.wide_k, t.wide_v));
  t.weights.resize(p.h * kBlock);
  part->top.assign(p.h, kNever), part->total.assign(p.h, 0.0f), part->sums.assign(p.h * t.wide_v, 0.0f);
  for (int64_t head = 0; head < p.h; ++head)
    for (int64_t d = 0; d < p.d; ++d)
      t.queries[head * t.wide_k + d % many * of_plane + d / many] = p.q[(batch * p.h + head) * p.d + d] * p.scale;
  for (int64_t i = from; i < to; ++i) {
    const int64_t key = i < sinks ? i : begin + i - sinks, page = p.pages[batch * p.m + key / p.p];
    if (page < 0 || page >= p.n) return false;
    t.lines.push_back(page * p.p + key % p.p);
    if (static_cast<int64_t>(t.lines.size()) < kBlock && i + 1 < to) continue;
#if EFFICIENT_X86
    if (wide) {
      Block512(t);
      continue;
    }
#endif
    BlockAny(t);
  }
  return true;
}

// The parts of a sequence's keys, as one.
void Merge(const Problem& p, int64_t batch, const Part* parts, int64_t count, float* out) {
  const int64_t many = p.values.Planes(), of_plane = OfPlane(p.values, p.d), wide = Whole(many * of_plane);
  for (int64_t head = 0; head < p.h; ++head) {
    float top = kNever, total = 0.0f;
    for (int64_t i = 0; i < count; ++i) top = parts[i].top[head] > top ? parts[i].top[head] : top;
    float* row = out + (batch * p.h + head) * p.d;
    std::fill_n(row, p.d, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      const float keep = parts[i].total[head] == 0.0f ? 0.0f : Exp(parts[i].top[head] - top);
      total += keep * parts[i].total[head];
      const float* sums = parts[i].sums.data() + head * wide;
      for (int64_t d = 0; d < p.d; ++d) row[d] += keep * sums[d % many * of_plane + d / many];
    }
    const float by = total == 0.0f ? 0.0f : 1.0f / total;
    for (int64_t d = 0; d < p.d; ++d) row[d] *= by;
  }
}

ffi::Error RunAll(const Problem& p, ffi::ThreadPool& pool, bool wide, float* out) {
  std::vector<int64_t> seen(p.b);
  int64_t all = 0;
  for (int64_t batch = 0; batch < p.b; ++batch) {
    const int64_t length = p.Length(batch), begin = p.window ? std::max<int64_t>(length - p.window, 0) : 0;
    seen[batch] = length - begin + std::min(p.sinks, begin);
    all = std::max(all, seen[batch]);
  }
  const int64_t parts = std::max<int64_t>(1, std::min<int64_t>(4 * pool.num_threads(), all / kLeast));
  std::vector<Part> made(p.b * parts);
  std::atomic<bool> broken{false};
  efficient::ParallelFor(pool, p.b * parts, 4 * p.b * p.h * all * p.d, [&](int64_t i) {
    const int64_t part = i % parts, batch = i / parts, count = seen[batch];
    if (!Run(p, batch, count * part / parts, count * (part + 1) / parts, wide, &made[i])) broken = true;
  });
  if (broken) return ffi::Error::InvalidArgument("decode_attention: pages must be from 0 to those that there are");
  for (int64_t batch = 0; batch < p.b; ++batch) Merge(p, batch, made.data() + batch * parts, parts, out);
  return ffi::Error::Success();
}

// Whether a cache is one; if so, as what.
bool Fits(const ffi::AnyBuffer& data, const F32& scale, const F32& shift, int64_t d, Cache* cache) {
  const auto dd = data.dimensions(), ds = scale.dimensions(), dh = shift.dimensions();
  if (dd.size() != 4 || ds.size() != 4 || dh.size() != 4) return false;
  *cache = {static_cast<const uint8_t*>(data.untyped_data()), scale.typed_data(), nullptr, 0, 0, 0};
  const auto type = data.element_type();
  if (type == ffi::F32 || type == ffi::BF16 || type == ffi::F16) {
    cache->bits = type == ffi::F32 ? 32 : type == ffi::BF16 ? 16 : -16;
    cache->wide = d * (type == ffi::F32 ? 4 : 2);
    return dd[3] == d && scale.element_count() == 0 && shift.element_count() == 0;
  }
  if (type != ffi::U8) return false;
  cache->wide = dd[3], cache->runs = ds[3];
  for (int bits : {8, 4, 2})
    if (dd[3] == (d * bits + 7) / 8) cache->bits = bits;
  if (!cache->bits || ds[3] < 1 || d % ds[3] != 0) return false;
  for (int i = 0; i < 3; ++i)
    if (ds[i] != dd[i]) return false;
  if (dh[0] == 0 && dd[0] != 0) return true;
  cache->shift = shift.typed_data();
  return std::equal(dh.begin(), dh.end(), ds.begin());
}

ffi::Error Entry(ffi::ThreadPool pool, F32 q, ffi::AnyBuffer keys, F32 key_scale, F32 key_shift, ffi::AnyBuffer values,
                 F32 value_scale, F32 value_shift, ffi::Buffer<ffi::S32> lengths, ffi::Buffer<ffi::S32> pages,
                 ffi::ResultBuffer<ffi::F32> out, int64_t window, int64_t sinks, float scale, int64_t tier) {
  efficient::Poison(out);
  const auto dq = q.dimensions(), dk = keys.dimensions(), dv = values.dimensions(), dp = pages.dimensions();
  const auto dl = lengths.dimensions(), dout = out->dimensions();
  if (dq.size() != 3 || dk.size() != 4 || dv.size() != 4 || dp.size() != 2 || dl.size() != 1 || dout.size() != 3)
    return ffi::Error::InvalidArgument("decode_attention: numbers of axes must be 3, 4, 4, 1, 2 and 3");
  Problem p{};
  p.q = q.typed_data(), p.lengths = lengths.typed_data(), p.pages = pages.typed_data();
  p.b = dq[0], p.h = dq[1], p.d = dq[2], p.n = dk[0], p.p = dk[1], p.g = dk[2], p.m = dp[1];
  p.window = window, p.sinks = sinks, p.scale = scale;
  if (!std::equal(dout.begin(), dout.end(), dq.begin()) || dl[0] != p.b || dp[0] != p.b || p.g < 1 ||
      p.h % p.g != 0 || p.p < 1 || p.d < 1 || dv[0] != p.n || dv[1] != p.p || dv[2] != p.g || window < 0 || sinks < 0)
    return ffi::Error::InvalidArgument("decode_attention: shapes of q, keys, values, lengths and pages must go together");
  if (!Fits(keys, key_scale, key_shift, p.d, &p.keys) || !Fits(values, value_scale, value_shift, p.d, &p.values))
    return ffi::Error::InvalidArgument("decode_attention: keys and values must be floats, or bytes with their scales");
  if (p.b == 0 || p.h == 0) return ffi::Error::Success();
  bool wide = false;
#if EFFICIENT_X86
  wide = efficient::HasAvx512() && tier != 1;
#endif
  return RunAll(p, pool, wide, out->typed_data());
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientDecodeAttention, Entry,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<F32>()
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("sinks")
                                  .Attr<float>("scale")
                                  .Attr<int64_t>("tier"));
