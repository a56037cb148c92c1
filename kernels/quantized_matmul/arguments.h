// What both products take: whether shapes go together, and which instructions there may be.
#ifndef EFFICIENT_QUANTIZED_MATMUL_ARGUMENTS_H_
#define EFFICIENT_QUANTIZED_MATMUL_ARGUMENTS_H_

#include <algorithm>
#include <cstdint>
#include <string>

#include "instructions.h"
#include "xla/ffi/api/ffi.h"

namespace efficient {

namespace ffi = xla::ffi;

// Sizes of a product; W is [k, n] in codes of `bits`, `pitch` bytes a row, in runs of `group` rows.
struct Sizes {
  int64_t m, k, n, pitch, group;
  int64_t scale_stride, shift_stride;  // 0: one number a run of rows
  int bits;
};

// The code of column n in a row; the first of a byte is the lowest.
inline int CodeAt(const uint8_t* row, int64_t n, int bits) {
  const int many = 8 / bits;
  return (row[n / many] >> (bits * (n % many))) & ((1 << bits) - 1);
}

// The whole number that a code stands for, where codes are two's complement; else the code.
inline int Signed(int code, int bits, bool is_signed) {
  return is_signed ? (code ^ (1 << (bits - 1))) - (1 << (bits - 1)) : code;
}

// Of a [G, N or 1] argument, whether it is one; the stride is then 1 for a number a column, else 0.
inline bool Fits(const ffi::Buffer<ffi::F32>& buffer, int64_t groups, int64_t n, int64_t* stride) {
  const auto d = buffer.dimensions();
  if (d.size() != 2 || d[0] != groups || (d[1] != n && d[1] != 1)) return false;
  *stride = d[1] == n ? 1 : 0;
  return true;
}

// Empty where the arguments go together, and sizes are then filled in; or the rule that is broken.
inline std::string Checked(const ffi::Buffer<ffi::F32>& x, const ffi::AnyBuffer& codes,
                           const ffi::Buffer<ffi::F32>& scale, const ffi::Buffer<ffi::F32>& shift,
                           const ffi::Buffer<ffi::F32>& y, int64_t bits, int64_t group, Sizes* sizes) {
  const auto dx = x.dimensions(), dc = codes.dimensions(), dy = y.dimensions();
  if (dx.size() != 2 || dc.size() != 2 || dy.size() != 2) return "x, codes and y must have two axes";
  if (codes.element_type() != ffi::U8 && codes.element_type() != ffi::S8) return "codes must be bytes";
  if (bits != 2 && bits != 4 && bits != 8) return "bits must be 2, 4 or 8, got " + std::to_string(bits);
  if (group < 1) return "group must be from 1, got " + std::to_string(group);
  const int64_t k = dx[1], n = dy[1];
  group = std::min(group, std::max<int64_t>(k, 1));  // sums with it cannot overflow
  *sizes = {dx[0], k, n, dc[1], group, 0, 0, static_cast<int>(bits)};
  if (dy[0] != dx[0] || dc[0] != k || dc[1] != (n * bits + 7) / 8)
    return "shapes of x, codes and y must go together";
  const int64_t groups = (k + group - 1) / group;
  if (!Fits(scale, groups, n, &sizes->scale_stride)) return "scale must be [runs of rows, columns or 1]";
  if (shift.element_count() > 0 && !Fits(shift, groups, n, &sizes->shift_stride))
    return "shift must be [runs of rows, columns or 1], or empty";
  return "";
}

}  // namespace efficient

#endif  // EFFICIENT_QUANTIZED_MATMUL_ARGUMENTS_H_
