// Poison: built with -DEFFICIENT_POISON, as tests are, a result is nan until its kernel writes it.
#ifndef EFFICIENT_POISON_H_
#define EFFICIENT_POISON_H_

#include <cstring>

#include "xla/ffi/api/ffi.h"

namespace efficient {

template <typename... Results>
void Poison(Results&... results) {
#ifdef EFFICIENT_POISON
  ((results->size_bytes() ? std::memset(results->untyped_data(), 0xFF, results->size_bytes()) : nullptr), ...);
#endif
}

}  // namespace efficient

#endif  // EFFICIENT_POISON_H_
