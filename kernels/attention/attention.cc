// Attention on the CPU, forward and backward, in blocks of 64 queries by 64 keys that stay in cache.
//
//   q, out, and slopes of them   float32 [B, T, H, D]
//   k, v, and slopes of them     float32 [B, S, G, D]   head h of q reads head h / (H / G)
//   lengths                      int32 [B]   keys of a sequence; query t stands at lengths - T + t
//   sums                         float32 [B, H, T]   log(sum(exp(scores))), kNever where no key is seen

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel.h"
#include "poison.h"
#include "scores.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using efficient::kColumns;
using efficient::kKeys;
using efficient::kNever;
using F32 = ffi::Buffer<ffi::F32>;

struct Problem {
  const float *q, *k, *v;
  const int32_t* lengths;
  int64_t b, t, s, h, g, d;
  efficient::Mask mask;
  float scale;

  int64_t Chunks() const { return (d + kColumns - 1) / kColumns; }
  int64_t Row(int64_t batch, int64_t query, int64_t head) const { return ((batch * t + query) * h + head) * d; }
  int64_t Line(int64_t batch, int64_t key, int64_t head) const { return ((batch * s + key) * g + head) * d; }
  int64_t Length(int64_t batch) const { return std::min<int64_t>(std::max(lengths[batch], 0), s); }
};

// Scores [keys][queries] of a block, masked and scaled; false where nothing is seen.
template <typename Tier>
bool Scores(const Problem& p, int64_t batch, int64_t group, int64_t key, int64_t place, int64_t rows,
            const float* queries, float* scores) {
  if (!p.mask.Sees(key, place, rows)) return false;
  const int64_t keys = std::min(kKeys, p.Length(batch) - key);
  std::fill_n(scores, kKeys * kColumns, 0.0f);
  Tier::Multiply(p.k + p.Line(batch, key, group), p.g * p.d, 1, keys, p.d, queries, scores);
  Tier::Apply(p.mask, scores, key, keys, place, p.scale);
  return true;
}

// Forward: some queries of a head.
template <typename Tier>
void Block(const Problem& p, int64_t batch, int64_t head, int64_t first, float* out, float* sums) {
  const int64_t rows = std::min(kColumns, p.t - first), group = head / (p.h / p.g), length = p.Length(batch);
  const int64_t place = length - p.t + first;
  std::vector<float> queries(p.d * kColumns), made(p.d * kColumns, 0.0f), scores(kKeys * kColumns);
  float top[kColumns], total[kColumns] = {}, keep[kColumns];
  std::fill_n(top, kColumns, kNever);
  efficient::Turned(p.q + p.Row(batch, first, head), p.h * p.d, rows, p.d, queries.data());
  for (int64_t key = 0; key < length; key += kKeys) {
    if (!Scores<Tier>(p, batch, group, key, place, rows, queries.data(), scores.data())) continue;
    Tier::Weigh(scores.data(), top, total, keep);
    Tier::Keep(made.data(), p.d, keep);
    const int64_t keys = std::min(kKeys, length - key);
    Tier::Multiply(p.v + p.Line(batch, key, group), 1, p.g * p.d, p.d, keys, scores.data(), made.data());
  }
  for (int64_t j = 0; j < rows; ++j) {
    const float by = total[j] == 0.0f ? 0.0f : 1.0f / total[j];
    float* row = out + p.Row(batch, first + j, head);
    for (int64_t d = 0; d < p.d; ++d) row[d] = made[d * kColumns + j] * by;
    sums[(batch * p.h + head) * p.t + first + j] = total[j] == 0.0f ? kNever : top[j] + std::log(total[j]);
  }
}

template <typename Tier>
void Forward(const Problem& p, ffi::ThreadPool& pool, float* out, float* sums) {
  const int64_t blocks = (p.t + kColumns - 1) / kColumns;
  efficient::ParallelFor(pool, p.b * p.h * blocks, 2 * p.b * p.h * p.t * p.s * p.d, [&](int64_t i) {
    const int64_t block = blocks - 1 - i % blocks;  // the longest first, where the mask is causal
    Block<Tier>(p, i / blocks / p.h, i / blocks % p.h, block * kColumns, out, sums);
  });
}

struct Slopes {
  const float *out, *sums, *slope;
  float *q, *k, *v;
};

// Backward: all queries of the heads that read one head of keys.
template <typename Tier>
void Group(const Problem& p, const Slopes& to, int64_t batch, int64_t group) {
  const int64_t chunks = p.Chunks(), length = p.Length(batch), tile = kColumns * kColumns;
  const int64_t lines = (p.s + kKeys - 1) / kKeys * kKeys, many = p.h / p.g;
  std::vector<float> dk(chunks * lines * kColumns, 0.0f), dv(chunks * lines * kColumns, 0.0f);
  std::vector<float> turned(p.d * kColumns), slope(p.d * kColumns), dq(p.d * kColumns);
  std::vector<float> rows(chunks * tile), slopes(chunks * tile), scores(kKeys * kColumns), change(kKeys * kColumns);
  for (int64_t head = group * many; head < (group + 1) * many; ++head)
    for (int64_t first = 0; first < p.t; first += kColumns) {
      const int64_t count = std::min(kColumns, p.t - first), place = length - p.t + first;
      const float *q = p.q + p.Row(batch, first, head), *given = to.slope + p.Row(batch, first, head);
      const float *out = to.out + p.Row(batch, first, head), *own = to.sums + (batch * p.h + head) * p.t + first;
      efficient::Turned(q, p.h * p.d, count, p.d, turned.data());
      efficient::Turned(given, p.h * p.d, count, p.d, slope.data());
      efficient::Chunked(q, p.h * p.d, count, p.d, rows.data());
      efficient::Chunked(given, p.h * p.d, count, p.d, slopes.data());
      float mean[kColumns] = {}, sums[kColumns];
      for (int64_t j = 0; j < kColumns; ++j) {
        sums[j] = j < count && own[j] > kNever ? own[j] : FLT_MAX;  // no key seen: every weight is 0
        for (int64_t d = 0; d < p.d && j < count; ++d) mean[j] += out[j * p.h * p.d + d] * given[j * p.h * p.d + d];
      }
      std::fill(dq.begin(), dq.end(), 0.0f);
      for (int64_t key = 0; key < length; key += kKeys) {
        if (!Scores<Tier>(p, batch, group, key, place, count, turned.data(), scores.data())) continue;
        const int64_t keys = std::min(kKeys, length - key), line = p.Line(batch, key, group), pitch = p.g * p.d;
        Tier::Shares(scores.data(), sums);
        std::fill(change.begin(), change.end(), 0.0f);
        Tier::Multiply(p.v + line, pitch, 1, keys, p.d, slope.data(), change.data());
        Tier::Slopes(scores.data(), mean, p.scale, change.data());
        Tier::Multiply(p.k + line, 1, pitch, p.d, keys, change.data(), dq.data());
        for (int64_t c = 0; c < chunks; ++c) {
          float *to_k = dk.data() + (c * lines + key) * kColumns, *to_v = dv.data() + (c * lines + key) * kColumns;
          Tier::Multiply(change.data(), kColumns, 1, keys, count, rows.data() + c * tile, to_k);
          Tier::Multiply(scores.data(), kColumns, 1, keys, count, slopes.data() + c * tile, to_v);
        }
      }
      for (int64_t j = 0; j < count; ++j)
        for (int64_t d = 0; d < p.d; ++d) to.q[p.Row(batch, first + j, head) + d] = dq[d * kColumns + j];
    }
  for (int64_t key = 0; key < p.s; ++key)
    for (int64_t d = 0; d < p.d; ++d) {
      const int64_t from = (d / kColumns * lines + key) * kColumns + d % kColumns;
      to.k[p.Line(batch, key, group) + d] = dk[from], to.v[p.Line(batch, key, group) + d] = dv[from];
    }
}

template <typename Tier>
void Backward(const Problem& p, ffi::ThreadPool& pool, const Slopes& to) {
  efficient::ParallelFor(pool, p.b * p.g, 5 * p.b * p.h * p.t * p.s * p.d,
                         [&](int64_t i) { Group<Tier>(p, to, i / p.g, i % p.g); });
}

template <typename A, typename B>
bool Same(const A& a, const B& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

// Empty where the arguments go together, and the problem is then filled in; or the rule that is broken.
std::string Checked(const F32& q, const F32& k, const F32& v, const ffi::Buffer<ffi::S32>& lengths, bool is_causal,
                    int64_t window, int64_t sinks, float scale, Problem* p) {
  const auto dq = q.dimensions(), dk = k.dimensions(), dl = lengths.dimensions();
  if (dq.size() != 4 || dk.size() != 4 || dl.size() != 1) return "q, k and v must have four axes, lengths one";
  if (!Same(dk, v.dimensions())) return "k and v must be of one shape";
  if (dk[0] != dq[0] || dk[3] != dq[3] || dl[0] != dq[0] || dk[2] < 1 || dq[2] % dk[2] != 0)
    return "shapes of q, k and lengths must go together";
  if (window < 0 || sinks < 0) return "window and sinks must be from 0";
  *p = {q.typed_data(), k.typed_data(), v.typed_data(), lengths.typed_data(), dq[0], dq[1], dk[1], dq[2], dk[2],
        dq[3], {is_causal, window, sinks}, scale};
  return "";
}

bool IsWide(int64_t tier) {
#if EFFICIENT_X86
  return efficient::HasAvx512() && tier != 1;
#else
  return false;
#endif
}

ffi::Error RunForward(ffi::ThreadPool pool, F32 q, F32 k, F32 v, ffi::Buffer<ffi::S32> lengths,
                      ffi::ResultBuffer<ffi::F32> out, ffi::ResultBuffer<ffi::F32> sums, bool is_causal,
                      int64_t window, int64_t sinks, float scale, int64_t tier) {
  efficient::Poison(out, sums);
  Problem p{};
  std::string broken = Checked(q, k, v, lengths, is_causal, window, sinks, scale, &p);
  const auto ds = sums->dimensions();
  if (broken.empty() && (!Same(out->dimensions(), q.dimensions()) || ds.size() != 3 || ds[0] != p.b || ds[1] != p.h ||
                         ds[2] != p.t))
    broken = "out must be of q's shape, sums [b, h, t]";
  if (!broken.empty()) return ffi::Error::InvalidArgument("attention: " + broken);
  if (q.element_count() == 0) return ffi::Error::Success();
#if EFFICIENT_X86
  if (IsWide(tier)) {
    Forward<efficient::Wide>(p, pool, out->typed_data(), sums->typed_data());
    return ffi::Error::Success();
  }
#endif
  Forward<efficient::Portable>(p, pool, out->typed_data(), sums->typed_data());
  return ffi::Error::Success();
}

ffi::Error RunBackward(ffi::ThreadPool pool, F32 q, F32 k, F32 v, ffi::Buffer<ffi::S32> lengths, F32 out, F32 sums,
                       F32 slope, ffi::ResultBuffer<ffi::F32> to_q, ffi::ResultBuffer<ffi::F32> to_k,
                       ffi::ResultBuffer<ffi::F32> to_v, bool is_causal, int64_t window, int64_t sinks, float scale,
                       int64_t tier) {
  efficient::Poison(to_q, to_k, to_v);
  Problem p{};
  std::string broken = Checked(q, k, v, lengths, is_causal, window, sinks, scale, &p);
  const auto dq = q.dimensions(), dk = k.dimensions();
  if (broken.empty() && (!Same(out.dimensions(), dq) || !Same(slope.dimensions(), dq) ||
                         !Same(to_q->dimensions(), dq) || !Same(to_k->dimensions(), dk) ||
                         !Same(to_v->dimensions(), dk) || sums.element_count() != size_t(p.b * p.h * p.t)))
    broken = "results must be of the shapes of what they belong to";
  if (!broken.empty()) return ffi::Error::InvalidArgument("attention_backward: " + broken);
  if (q.element_count() == 0 && k.element_count() == 0) return ffi::Error::Success();
  const Slopes to{out.typed_data(),   sums.typed_data(),  slope.typed_data(),
                  to_q->typed_data(), to_k->typed_data(), to_v->typed_data()};
#if EFFICIENT_X86
  if (IsWide(tier)) {
    Backward<efficient::Wide>(p, pool, to);
    return ffi::Error::Success();
  }
#endif
  Backward<efficient::Portable>(p, pool, to);
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientAttention, RunForward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Attr<bool>("is_causal")
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("sinks")
                                  .Attr<float>("scale")
                                  .Attr<int64_t>("tier"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientAttentionBackward, RunBackward,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Arg<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Ret<F32>()
                                  .Attr<bool>("is_causal")
                                  .Attr<int64_t>("window")
                                  .Attr<int64_t>("sinks")
                                  .Attr<float>("scale")
                                  .Attr<int64_t>("tier"));
