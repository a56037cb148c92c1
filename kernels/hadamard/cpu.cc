// y = x H / sqrt(n) on the CPU, row by row, n a power of two: sums and differences of pairs, in cache.
//
//   x, y   float32 [M, n]

#include <cmath>
#include <cstdint>
#include <cstring>

#include "instructions.h"
#include "parallel.h"
#include "poison.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kPart = 16;  // neighbours that are transformed in registers

// Pairs `step` apart, and sums of them 2 * step apart, of v [n]; each step is a multiple of kPart.
inline __attribute__((always_inline)) void Steps(float* v, int64_t n, int64_t step) {
  for (; 4 * step <= n; step *= 4)
    for (int64_t i = 0; i < n; i += 4 * step) {
      float *p0 = v + i, *p1 = p0 + step, *p2 = p1 + step, *p3 = p2 + step;
      for (int64_t j = 0; j < step; ++j) {
        const float a = p0[j] + p1[j], b = p0[j] - p1[j], c = p2[j] + p3[j], d = p2[j] - p3[j];
        p0[j] = a + c, p1[j] = b + d, p2[j] = a - c, p3[j] = b - d;
      }
    }
  if (2 * step <= n)
    for (int64_t j = 0; j < step; ++j) {
      const float a = v[j], b = v[step + j];
      v[j] = a + b, v[step + j] = a - b;
    }
}

EFFICIENT_CLONES void Any(const float* x, int64_t n, float scale, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = scale * x[i];
  const int64_t part = n < kPart ? n : kPart;
  for (int64_t step = 1; step < part; step *= 2)
    for (int64_t i = 0; i < n; i += 2 * step)
      for (int64_t j = i; j < i + step; ++j) {
        const float a = y[j], b = y[j + step];
        y[j] = a + b, y[j + step] = a - b;
      }
  if (n > kPart) Steps(y, n, kPart);
}

#if EFFICIENT_X86

EFFICIENT_AVX512 void Wide(const float* x, int64_t n, float scale, float* y) {
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t i = 0; i < n; i += kPart) {
    __m512 v = _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_loadu_ps(x + i));
    for (int step = 1; step < kPart; step *= 2) {
      const __m512i by = _mm512_set1_epi32(step);
      const __m512 other = _mm512_permutexvar_ps(_mm512_xor_si512(lanes, by), v);
      const __mmask16 later = _mm512_test_epi32_mask(lanes, by);
      v = _mm512_mask_sub_ps(_mm512_add_ps(v, other), later, other, v);
    }
    _mm512_storeu_ps(y + i, v);
  }
  Steps(y, n, kPart);
}

#endif  // EFFICIENT_X86

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::ResultBuffer<ffi::F32> y, int64_t tier) {
  efficient::Poison(y);
  const auto dx = x.dimensions(), dy = y->dimensions();
  if (dx.size() != 2 || dy.size() != 2 || dx[0] != dy[0] || dx[1] != dy[1])
    return ffi::Error::InvalidArgument("hadamard: x and y must be of one shape, [m, n]");
  const int64_t m = dx[0], n = dx[1];
  if (n < 1 || (n & (n - 1))) return ffi::Error::InvalidArgument("hadamard: n must be a power of two");
  const float* from = x.typed_data();
  float* to = y->typed_data();
  const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
  const int64_t rows = std::max<int64_t>(1, 16384 / n), tasks = (m + rows - 1) / rows;  // of a task
  efficient::ParallelFor(pool, tasks, m * n * 4, [&](int64_t task) {
    for (int64_t r = task * rows; r < std::min(m, (task + 1) * rows); ++r) {
#if EFFICIENT_X86
      if (efficient::HasAvx512() && tier != 1 && n >= kPart) {
        Wide(from + r * n, n, scale, to + r * n);
        continue;
      }
#endif
      Any(from + r * n, n, scale, to + r * n);
    }
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientHadamard, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("tier"));
