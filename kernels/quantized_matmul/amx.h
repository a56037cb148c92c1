// AMX: whether the machine multiplies tiles, and how they are laid out.
#ifndef EFFICIENT_QUANTIZED_MATMUL_AMX_H_
#define EFFICIENT_QUANTIZED_MATMUL_AMX_H_

#include <cstdint>

#include "instructions.h"

#if EFFICIENT_X86 && defined(__linux__)
#define EFFICIENT_HAS_AMX 1
#include <sys/syscall.h>
#include <unistd.h>

namespace efficient {

// Whether there are tiles of a kind (bit 22: bfloat16, 25: int8), and the system lets this process use them.
inline bool HasTiles(int kind) {
  static const unsigned features = [] {
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    const bool tiles = (d >> 24) & 1;
    return tiles && HasAvx512() && syscall(SYS_arch_prctl, kRequest, kTileData) == 0 ? d : 0u;
  }();
  return (features >> kind) & 1;
}

// Tiles 0 to 3 are sums of 16 x 16, 4 and 5 are of x, 6 and 7 of W; `step` quads of bytes, 1 to 16, are multiplied
// at once.
__attribute__((target("amx-tile"))) inline void Configure(int64_t step) {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int t = 0; t < 8; ++t) {
    config.bytes[t] = static_cast<uint16_t>(t == 4 || t == 5 ? 4 * step : 64);
    config.rows[t] = static_cast<uint8_t>(t == 6 || t == 7 ? step : 16);
  }
  _tile_loadconfig(&config);
}

}  // namespace efficient

#endif  // Linux on x86

#endif  // EFFICIENT_QUANTIZED_MATMUL_AMX_H_
