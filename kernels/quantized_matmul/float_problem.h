// A product with x in float32: its arguments.
#ifndef EFFICIENT_QUANTIZED_MATMUL_FLOAT_PROBLEM_H_
#define EFFICIENT_QUANTIZED_MATMUL_FLOAT_PROBLEM_H_

#include <cstdint>

#include "arguments.h"
#include "tile.h"

namespace efficient {

struct FloatProblem : Sizes {
  const float* x;
  const uint8_t* codes;
  const float* table;  // nullptr: codes are whole numbers
  int64_t entries;     // of the table, 16 or 256
  bool is_signed;      // whole numbers are two's complement
  const float* scale;
  const float* shift;  // nullptr: none
  float* y;

  const float* Scale(int64_t run) const { return scale + run * (scale_stride ? n : 1); }
  const float* Shift(int64_t run) const { return shift + run * (shift_stride ? n : 1); }
};

}  // namespace efficient

#endif  // EFFICIENT_QUANTIZED_MATMUL_FLOAT_PROBLEM_H_
