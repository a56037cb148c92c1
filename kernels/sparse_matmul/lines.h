// Lines: indices of compressed rows, of 1, 2 or 4 bytes, held to their bounds before anything is read by them.
#ifndef EFFICIENT_SPARSE_MATMUL_LINES_H_
#define EFFICIENT_SPARSE_MATMUL_LINES_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace efficient {

namespace ffi = xla::ffi;

// Calls body(pointer) with the buffer's numbers as what they are; false where they are no unsigned integers.
template <typename Body>
bool WithIndices(const ffi::AnyBuffer& buffer, const Body& body) {
  const void* data = buffer.untyped_data();
  switch (buffer.element_type()) {
    case ffi::U8: body(static_cast<const uint8_t*>(data)); return true;
    case ffi::U16: body(static_cast<const uint16_t*>(data)); return true;
    case ffi::U32: body(static_cast<const uint32_t*>(data)); return true;
    default: return false;
  }
}

// Where each line begins, and the last ends: rising, from 0 to `kept` at most, whatever the numbers are.
template <typename Index>
std::vector<int64_t> Bounds(const Index* pointers, int64_t lines, int64_t kept) {
  std::vector<int64_t> out(lines + 1);
  int64_t last = 0;
  for (int64_t i = 0; i <= lines; ++i) {
    last = std::min(kept, std::max(last, static_cast<int64_t>(pointers[i])));
    out[i] = last;
  }
  return out;
}

}  // namespace efficient

#endif  // EFFICIENT_SPARSE_MATMUL_LINES_H_
