// Panel: 16 rows of x turned, so that one weight meets them all at once.
#ifndef EFFICIENT_SPARSE_MATMUL_PANEL_H_
#define EFFICIENT_SPARSE_MATMUL_PANEL_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "instructions.h"

namespace efficient {

constexpr int64_t kWide = 16;  // rows of a panel

// Rows m0 to m0 + 16 of x [m, k], turned: [k][16], zeros where there are none.
EFFICIENT_CLONES inline std::vector<float> Turned(const float* x, int64_t m, int64_t k, int64_t m0) {
  std::vector<float> out(k * kWide, 0.0f);
  for (int64_t r = 0; r < std::min(kWide, m - m0); ++r)
    for (int64_t i = 0; i < k; ++i) out[i * kWide + r] = x[(m0 + r) * k + i];
  return out;
}

// Columns n0 to n1 of y [m, n], from a turned panel [n1 - n0][16].
EFFICIENT_CLONES inline void TurnBack(const float* panel, int64_t m, int64_t n, int64_t m0, int64_t n0, int64_t n1,
                                      float* y) {
  for (int64_t r = 0; r < std::min(kWide, m - m0); ++r)
    for (int64_t i = n0; i < n1; ++i) y[(m0 + r) * n + i] = panel[(i - n0) * kWide + r];
}

}  // namespace efficient

#endif  // EFFICIENT_SPARSE_MATMUL_PANEL_H_
