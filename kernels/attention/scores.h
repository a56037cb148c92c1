// Scores: which lanes of a block of queries see a key, and exponentials of blocks.
//
// A block is [keys][kColumns queries]: a row for each key, a lane for each query, so that all sums over keys are
// lane by lane.
#ifndef EFFICIENT_ATTENTION_SCORES_H_
#define EFFICIENT_ATTENTION_SCORES_H_

#include <algorithm>
#include <cfloat>
#include <cstdint>
#include <cstring>

#include "instructions.h"
#include "tile.h"

namespace efficient {

constexpr float kNever = -0.5f * FLT_MAX;  // the score of a key that is not seen
constexpr int64_t kKeys = 64;              // of a block

// exp(x) to about two units in the last place; 0 below -87. A nan stays. Written so that compilers make lanes of it.
inline __attribute__((always_inline)) float Exp(float x) {
  const float to = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float whole = (to * 1.44269504f + 12582912.0f) - 12582912.0f;
  const float rest = (to - whole * 0.693145752f) - whole * 1.42860677e-6f;
  float sum = 1.9875691e-4f;
  sum = sum * rest + 1.3981999e-3f;
  sum = sum * rest + 8.3334519e-3f;
  sum = sum * rest + 4.1665796e-2f;
  sum = sum * rest + 1.6666665e-1f;
  sum = sum * rest + 5.0000001e-1f;
  sum = sum * rest * rest + rest + 1.0f;
  const int32_t bits = (static_cast<int32_t>(whole) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return x < -87.0f ? 0.0f : sum * power;
}

struct Mask {
  bool is_causal;
  int64_t window, sinks;

  // Of queries at places `place` on, the first that sees key `key`, and the one after the last.
  void Lanes(int64_t key, int64_t place, int64_t* first, int64_t* end) const {
    *first = is_causal ? std::min(std::max<int64_t>(key - place, 0), kColumns) : 0;
    *end = window && key >= sinks ? std::min(std::max<int64_t>(key + window - place, 0), kColumns) : kColumns;
  }

  // Whether some of `rows` queries see some of the keys of a block.
  bool Sees(int64_t key, int64_t place, int64_t rows) const {
    if (is_causal && key > place + rows - 1) return false;
    return !window || key < sinks || key + kKeys - 1 > place - window;
  }

  // Scores of `keys` keys from `key` on, scaled; what is not seen, and rows beyond `keys`, is never.
  inline __attribute__((always_inline)) void Apply(float* scores, int64_t key, int64_t keys, int64_t place,
                                                   float scale) const {
    for (int64_t r = 0; r < kKeys; ++r) {
      float* row = scores + r * kColumns;
      int64_t first = kColumns, end = 0;
      if (r < keys) Lanes(key + r, place, &first, &end);
      if (first == 0 && end == kColumns) {
        for (int64_t j = 0; j < kColumns; ++j) row[j] *= scale;
      } else {
        for (int64_t j = 0; j < kColumns; ++j) row[j] = j >= first && j < end ? row[j] * scale : -FLT_MAX;
      }
    }
  }
};

// tile[d][kColumns] = rows [kColumns][d] of `rows` queries `pitch` apart, zeros beyond.
inline void Turned(const float* rows, int64_t pitch, int64_t count, int64_t size, float* tile) {
  for (int64_t d = 0; d < size; ++d)
    for (int64_t j = 0; j < kColumns; ++j) tile[d * kColumns + j] = j < count ? rows[j * pitch + d] : 0.0f;
}

// tile[chunk][kColumns queries][kColumns of d] = the same rows, zeros beyond.
inline void Chunked(const float* rows, int64_t pitch, int64_t count, int64_t size, float* tile) {
  const int64_t chunks = (size + kColumns - 1) / kColumns;
  std::memset(tile, 0, chunks * kColumns * kColumns * sizeof(float));
  for (int64_t j = 0; j < count; ++j)
    for (int64_t d = 0; d < size; ++d)
      tile[(d / kColumns * kColumns + j) * kColumns + d % kColumns] = rows[j * pitch + d];
}

// Weights of a block from its scores, in place; tops, totals and what earlier sums are multiplied with, by lane.
inline __attribute__((always_inline)) void Weigh(float* scores, float* top, float* total, float* keep) {
  float best[kColumns], sums[kColumns] = {};
  std::memcpy(best, top, sizeof(best));
  for (int64_t r = 0; r < kKeys; ++r)
    for (int64_t j = 0; j < kColumns; ++j) {
      const float s = scores[r * kColumns + j];
      best[j] = s > best[j] ? s : best[j];
    }
  for (int64_t j = 0; j < kColumns; ++j) keep[j] = Exp(top[j] - best[j]);
  for (int64_t r = 0; r < kKeys; ++r)
    for (int64_t j = 0; j < kColumns; ++j) {
      const float weight = Exp(scores[r * kColumns + j] - best[j]);
      scores[r * kColumns + j] = weight;
      sums[j] += weight;
    }
  for (int64_t j = 0; j < kColumns; ++j) total[j] = total[j] * keep[j] + sums[j], top[j] = best[j];
}

// Weights of a block from its scores and logarithms of their sums.
inline __attribute__((always_inline)) void Shares(float* scores, const float* sums) {
  for (int64_t r = 0; r < kKeys; ++r)
    for (int64_t j = 0; j < kColumns; ++j) scores[r * kColumns + j] = Exp(scores[r * kColumns + j] - sums[j]);
}

// Slopes of scores: weights times (slopes of weights less their mean), times the scale; in place of the slopes.
inline __attribute__((always_inline)) void Slopes(const float* weights, const float* mean, float scale, float* slopes) {
  for (int64_t r = 0; r < kKeys; ++r)
    for (int64_t j = 0; j < kColumns; ++j) {
      const int64_t i = r * kColumns + j;
      slopes[i] = weights[i] * (slopes[i] - mean[j]) * scale;
    }
}

// rows [size][kColumns] times a number a lane.
inline __attribute__((always_inline)) void Keep(float* rows, int64_t size, const float* keep) {
  for (int64_t d = 0; d < size; ++d)
    for (int64_t j = 0; j < kColumns; ++j) rows[d * kColumns + j] *= keep[j];
}

// What there are two versions of.
struct Portable {
  static constexpr auto Multiply = MultiplyAny;
  EFFICIENT_CLONES static void Apply(const Mask& m, float* s, int64_t key, int64_t keys, int64_t place, float scale) {
    m.Apply(s, key, keys, place, scale);
  }
  EFFICIENT_CLONES static void Weigh(float* s, float* top, float* total, float* keep) {
    efficient::Weigh(s, top, total, keep);
  }
  EFFICIENT_CLONES static void Shares(float* s, const float* sums) { efficient::Shares(s, sums); }
  EFFICIENT_CLONES static void Slopes(const float* w, const float* mean, float scale, float* s) {
    efficient::Slopes(w, mean, scale, s);
  }
  EFFICIENT_CLONES static void Keep(float* rows, int64_t size, const float* keep) { efficient::Keep(rows, size, keep); }
};

#if EFFICIENT_X86

struct Wide {
  static constexpr auto Multiply = Multiply512;
  EFFICIENT_AVX512 static void Apply(const Mask& m, float* s, int64_t key, int64_t keys, int64_t place, float scale) {
    m.Apply(s, key, keys, place, scale);
  }
  EFFICIENT_AVX512 static void Weigh(float* s, float* top, float* total, float* keep) {
    efficient::Weigh(s, top, total, keep);
  }
  EFFICIENT_AVX512 static void Shares(float* s, const float* sums) { efficient::Shares(s, sums); }
  EFFICIENT_AVX512 static void Slopes(const float* w, const float* mean, float scale, float* s) {
    efficient::Slopes(w, mean, scale, s);
  }
  EFFICIENT_AVX512 static void Keep(float* rows, int64_t size, const float* keep) { efficient::Keep(rows, size, keep); }
};

#endif  // EFFICIENT_X86

}  // namespace efficient

#endif  // EFFICIENT_ATTENTION_SCORES_H_
