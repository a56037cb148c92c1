// A convolution of each channel by itself on the CPU, channels last: every result is summed in registers.
//
//   x        float32 [B, H, W, C]
//   weights  float32 [I, J, C]
//   y        float32 [B, H', W', C]   y[h, w] = sum_ij x[stride h + dilation i - top, ...] weights[i, j]; what lies
//            outside of x is 0

#include <algorithm>
#include <cstdint>

#include "instructions.h"
#include "parallel.h"
#include "poison.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kMost = int64_t{1} << 31;  // of a size, a stride, a dilation: products of two cannot overflow

struct Problem {
  const float *x, *weights;
  float* y;
  int64_t b, h, w, c, tall, wide, down, across;
  int64_t stride_y, stride_x, dilation_y, dilation_x, top, left;
};

// Of `count` places from `first` on, `step` apart, those in [0, size): from `begin` to `end`.
inline void Inside(int64_t first, int64_t step, int64_t count, int64_t size, int64_t* begin, int64_t* end) {
  *begin = first >= 0 ? 0 : std::min(count, (-first + step - 1) / step);
  *end = first >= size ? *begin : std::max(*begin, std::min(count, (size - 1 - first) / step + 1));
}

// One place of the result, channels c0 to c1; its window's rows i0 to i1 and columns j0 to j1 lie in x.
struct Place {
  const float* x;  // of row i0 and column j0
  float* y;
  int64_t i0, i1, j0, j1;
};

inline __attribute__((always_inline)) void One(const Problem& p, const Place& at, int64_t c0, int64_t c1) {
  for (int64_t c = c0; c < c1; ++c) at.y[c] = 0.0f;
  for (int64_t i = at.i0; i < at.i1; ++i)
    for (int64_t j = at.j0; j < at.j1; ++j) {
      const float* x = at.x + ((i - at.i0) * p.dilation_y * p.w + (j - at.j0) * p.dilation_x) * p.c;
      const float* weights = p.weights + (i * p.wide + j) * p.c;
      for (int64_t c = c0; c < c1; ++c) at.y[c] += x[c] * weights[c];
    }
}

EFFICIENT_CLONES void OneAny(const Problem& p, const Place& at) { One(p, at, 0, p.c); }

#if EFFICIENT_X86

// N registers of channels from c on; the last has `mask`.
template <int N>
EFFICIENT_AVX512 inline void Channels(const Problem& p, const Place& at, int64_t c, __mmask16 mask) {
  __m512 sums[N];
  for (int n = 0; n < N; ++n) sums[n] = _mm512_setzero_ps();
  for (int64_t i = at.i0; i < at.i1; ++i)
    for (int64_t j = at.j0; j < at.j1; ++j) {
      const float* x = at.x + ((i - at.i0) * p.dilation_y * p.w + (j - at.j0) * p.dilation_x) * p.c + c;
      const float* weights = p.weights + (i * p.wide + j) * p.c + c;
      for (int n = 0; n < N; ++n) {
        const __mmask16 own = n == N - 1 ? mask : 0xFFFF;
        sums[n] = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(own, x + 16 * n), _mm512_maskz_loadu_ps(own, weights + 16 * n),
                                  sums[n]);
      }
    }
  for (int n = 0; n < N; ++n) _mm512_mask_storeu_ps(at.y + c + 16 * n, n == N - 1 ? mask : 0xFFFF, sums[n]);
}

EFFICIENT_AVX512 void One512(const Problem& p, const Place& at) {
  int64_t c = 0;
  for (; c + 64 <= p.c; c += 64) Channels<4>(p, at, c, 0xFFFF);
  for (; c < p.c; c += 16)
    Channels<1>(p, at, c, p.c - c >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (p.c - c)) - 1));
}

#endif  // EFFICIENT_X86

// One row of the result.
template <typename Each>
void Row(const Problem& p, int64_t line, const Each& each) {
  const int64_t image = line / p.down, row = line % p.down, y = row * p.stride_y - p.top;
  Place at{};
  Inside(y, p.dilation_y, p.tall, p.h, &at.i0, &at.i1);
  for (int64_t column = 0; column < p.across; ++column) {
    const int64_t x = column * p.stride_x - p.left;
    Inside(x, p.dilation_x, p.wide, p.w, &at.j0, &at.j1);
    const int64_t first_y = y + at.i0 * p.dilation_y, first_x = x + at.j0 * p.dilation_x;
    const bool any = at.i0 < at.i1 && at.j0 < at.j1;
    at.x = any ? p.x + ((image * p.h + first_y) * p.w + first_x) * p.c : p.x;
    at.y = p.y + (line * p.across + column) * p.c;
    each(p, at);
  }
}

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> weights,
               ffi::ResultBuffer<ffi::F32> y, int64_t stride_y, int64_t stride_x, int64_t dilation_y,
               int64_t dilation_x, int64_t top, int64_t left, int64_t tier) {
  efficient::Poison(y);
  const auto dx = x.dimensions(), dw = weights.dimensions(), dy = y->dimensions();
  if (dx.size() != 4 || dw.size() != 3 || dy.size() != 4)
    return ffi::Error::InvalidArgument("depthwise_conv: numbers of axes must be 4, 3 and 4");
  if (dw[2] != dx[3] || dy[3] != dx[3] || dy[0] != dx[0])
    return ffi::Error::InvalidArgument("depthwise_conv: channels and images must go together");
  for (int64_t size : {stride_y, stride_x, dilation_y, dilation_x})
    if (size < 1 || size > kMost) return ffi::Error::InvalidArgument("depthwise_conv: strides must be from 1");
  for (int64_t size : {dx[1], dx[2], dw[0], dw[1], dy[1], dy[2], top, left})
    if (size < 0 || size > kMost) return ffi::Error::InvalidArgument("depthwise_conv: sizes must be from 0");
  const Problem p{x.typed_data(), weights.typed_data(), y->typed_data(), dx[0], dx[1], dx[2], dx[3], dw[0], dw[1],
                  dy[1], dy[2], stride_y, stride_x, dilation_y, dilation_x, top, left};
  const int64_t lines = p.b * p.down;
  const int64_t work = lines * p.across * p.c * std::max<int64_t>(1, p.tall * p.wide);
  efficient::ParallelFor(pool, lines, work, [&](int64_t line) {
#if EFFICIENT_X86
    if (efficient::HasAvx512() && tier != 1) return Row(p, line, One512);
#endif
    Row(p, line, OneAny);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientDepthwiseConv, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("stride_y")
                                  .Attr<int64_t>("stride_x")
                                  .Attr<int64_t>("dilation_y")
                                  .Attr<int64_t>("dilation_x")
                                  .Attr<int64_t>("top")
                                  .Attr<int64_t>("left")
                                  .Attr<int64_t>("tier"));
