// A product in 8-bit integers: its arguments, and x once it is rounded, in pieces of rows of W.
#ifndef EFFICIENT_QUANTIZED_MATMUL_INT8_PROBLEM_H_
#define EFFICIENT_QUANTIZED_MATMUL_INT8_PROBLEM_H_

#include <cstdint>
#include <vector>

#include "arguments.h"

namespace efficient {

constexpr int64_t kPiece = 256;  // rows whose sums are exact in float32 too: 255 * 127 * 256 < 2^24

// Rows k0 to k1 of W, of one run; their quads of x lie from `quad` on.
struct Piece {
  int64_t k0, k1, run, quad;
  int64_t quads() const { return (k1 - k0 + 3) / 4; }
};

struct Problem : Sizes {
  const float* x;
  const uint8_t* codes;
  const float* scale;
  const float* shift;  // nullptr: none
  float* y;
  bool is_signed;      // codes are two's complement
  std::vector<Piece> pieces;
  int64_t quads = 0;            // of a row of x
  std::vector<int32_t> values;  // [M, quads] four int8 each, filled up with 0
  std::vector<float> sums;      // [M, pieces] of values
  std::vector<float> steps;     // [M] of values

  int64_t Work() const { return m * n / 2 * k; }  // 8 bits take half of the time of float32
  const float* Scale(int64_t run) const { return scale + run * (scale_stride ? n : 1); }
  // Two's complement with its first bit turned is the number and this.
  float Base() const { return is_signed ? static_cast<float>(1 << (bits - 1)) : 0.0f; }
  bool Shifts() const { return shift != nullptr || is_signed; }
  const float* Shift(int64_t run) const { return shift + run * (shift_stride ? n : 1); }
};

}  // namespace efficient

#endif  // EFFICIENT_QUANTIZED_MATMUL_INT8_PROBLEM_H_
