// y = x W on the CPU in 8-bit integers: rows of x are rounded to int8 as they come, W is unsigned codes, sums
// are int32 and exact, scales come after. Codes stay as they lie: four rows are turned into lanes in registers.
//
//   x        float32 [M, K]
//   codes    uint8 [K, P]   4 bits: two a byte, the first lowest, P = ceil(N / 2); 8 bits: P = N
//   scale    float32 [G, N or 1]   of each run of `group` rows; G = ceil(K / group)
//   shift    float32 [G, N or 1]   taken off each code before the scale; or [0, 0]
//   x_scale  float32 [1]   of all of x; or [0]: a row's largest absolute value / 127
//   y        float32 [M, N]
//
// y[m, n] = s[m] sum_g scale[g, n] (sum_k q[m, k] code[k, n] - shift[g, n] sum_k q[m, k]), k in run g.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "parallel.h"
#include "xla/ffi/api/ffi.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define EFFICIENT_X86 1
#include <immintrin.h>
#if defined(__linux__)
#define EFFICIENT_HAS_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace ffi = xla::ffi;

namespace {

constexpr int64_t kPiece = 256;  // rows whose sums are exact in float32 too: 255 * 127 * 256 < 2^24
constexpr int64_t kChunk = 128;  // rows of x that one task multiplies
constexpr int64_t kTiles = 8;    // rows of x from which tiles are faster
constexpr int64_t kBlock = 64;   // columns of a task of the portable path

// Rows k0 to k1 of W, of one run; their quads of x lie from `quad` on.
struct Piece {
  int64_t k0, k1, run, quad;
  int64_t quads() const { return (k1 - k0 + 3) / 4; }
};

struct Problem {
  const float* x;
  const uint8_t* codes;
  const float* scale;
  const float* shift;  // nullptr: none
  float* y;
  int64_t m, k, n, pitch;  // pitch: bytes of a row of codes
  int64_t scale_stride, shift_stride;  // 0: one number a run of rows
  int bits;
  std::vector<Piece> pieces;
  int64_t quads = 0;            // of a row of x
  std::vector<int32_t> values;  // [M, quads] four int8 each, filled up with 0
  std::vector<float> sums;      // [M, pieces] of values
  std::vector<float> steps;     // [M] of values

  int64_t Work() const { return m * n / 2 * k; }  // 8 bits take half of the time of float32
  const float* Scale(int64_t run) const { return scale + run * (scale_stride ? n : 1); }
  const float* Shift(int64_t run) const { return shift + run * (shift_stride ? n : 1); }
};

void Cut(Problem& p, int64_t group) {
  for (int64_t run = 0; run * group < p.k; ++run) {
    const int64_t end = std::min(p.k, (run + 1) * group);
    for (int64_t k = run * group; k < end; k += kPiece) {
      p.pieces.push_back({k, std::min(end, k + kPiece), run, p.quads});
      p.quads += p.pieces.back().quads();
    }
  }
}

// One row of x to int8. A row that is not finite throughout, or a step that is no positive normal number, gives
// nan throughout.
#if EFFICIENT_X86 && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
void RoundRow(Problem& p, int64_t m, const float* fixed) {
  const float* x = p.x + m * p.k;
  float top = 0.0f;
  int finite = 1;
  for (int64_t k = 0; k < p.k; ++k) {
    const float size = std::fabs(x[k]);
    finite &= size <= std::numeric_limits<float>::max();
    top = size > top ? size : top;
  }
  const float step = fixed ? *fixed : std::max(top * (1.0f / 127.0f), std::numeric_limits<float>::min());
  finite &= step >= std::numeric_limits<float>::min() && step <= std::numeric_limits<float>::max();
  p.steps[m] = finite ? step : std::numeric_limits<float>::quiet_NaN();
  if (!finite) return;  // values stay 0
  const float by = 1.0f / step;
  int8_t* values = reinterpret_cast<int8_t*>(p.values.data() + m * p.quads);
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    int8_t* out = values + 4 * piece.quad;
    int32_t sum = 0;
    for (int64_t k = piece.k0; k < piece.k1; ++k) {
      float near = std::nearbyintf(x[k] * by);
      near = near < -127.0f ? -127.0f : near > 127.0f ? 127.0f : near;
      const int32_t value = static_cast<int32_t>(near);
      out[k - piece.k0] = static_cast<int8_t>(value);
      sum += value;
    }
    p.sums[m * p.pieces.size() + i] = static_cast<float>(sum);
  }
}

#if EFFICIENT_X86

#define EFFICIENT_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

bool HasVnni() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vnni");
  return has;
}

// A block is 64 bytes of a row of codes: V registers of 16 columns each. Where r is a register's number and
// (lane, i) a place in it, 8-bit codes hold column 16 lane + 4 r + i there; of 4-bit codes, registers 2 q and
// 2 q + 1 hold the even and the odd columns of 32 lane + 8 q + 2 i.
template <int Bits>
struct Block {
  static constexpr int V = Bits == 4 ? 8 : 4;
  static constexpr int64_t kColumns = 16 * V;
};

// Bytes of four rows, to lanes of four.
EFFICIENT_VNNI inline void Turn(__m512i a, __m512i b, __m512i c, __m512i d, __m512i* out, int stride) {
  const __m512i ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d);
  const __m512i ab_high = _mm512_unpackhi_epi8(a, b), cd_high = _mm512_unpackhi_epi8(c, d);
  out[0] = _mm512_unpacklo_epi16(ab, cd);
  out[stride] = _mm512_unpackhi_epi16(ab, cd);
  out[2 * stride] = _mm512_unpacklo_epi16(ab_high, cd_high);
  out[3 * stride] = _mm512_unpackhi_epi16(ab_high, cd_high);
}

// Four rows of codes from `row` on, of which `there` are there; the others stand for rows that x has 0 at.
template <int Bits>
EFFICIENT_VNNI inline void Quad(const uint8_t* row, int64_t pitch, int64_t there, __mmask64 mask, __m512i* out) {
  const int64_t last = there - 1;
  const __m512i a = _mm512_maskz_loadu_epi8(mask, row);
  const __m512i b = _mm512_maskz_loadu_epi8(mask, row + std::min<int64_t>(1, last) * pitch);
  const __m512i c = _mm512_maskz_loadu_epi8(mask, row + std::min<int64_t>(2, last) * pitch);
  const __m512i d = _mm512_maskz_loadu_epi8(mask, row + std::min<int64_t>(3, last) * pitch);
  if (Bits == 8) {
    Turn(a, b, c, d, out, 1);
    return;
  }
  const __m512i low = _mm512_set1_epi8(15);
  Turn(_mm512_and_si512(a, low), _mm512_and_si512(b, low), _mm512_and_si512(c, low), _mm512_and_si512(d, low),
       out, 2);
  Turn(_mm512_and_si512(_mm512_srli_epi16(a, 4), low), _mm512_and_si512(_mm512_srli_epi16(b, 4), low),
       _mm512_and_si512(_mm512_srli_epi16(c, 4), low), _mm512_and_si512(_mm512_srli_epi16(d, 4), low), out + 1, 2);
}

// Four runs of four floats, `step` apart.
EFFICIENT_VNNI inline __m512 Lanes(const float* from, int64_t step) {
  __m512 out = _mm512_castps128_ps512(_mm_loadu_ps(from));
  out = _mm512_insertf32x4(out, _mm_loadu_ps(from + step), 1);
  out = _mm512_insertf32x4(out, _mm_loadu_ps(from + 2 * step), 2);
  return _mm512_insertf32x4(out, _mm_loadu_ps(from + 3 * step), 3);
}

EFFICIENT_VNNI inline void StoreLanes(__m512 value, float* to, int64_t step) {
  _mm_storeu_ps(to, _mm512_castps512_ps128(value));
  _mm_storeu_ps(to + step, _mm512_extractf32x4_ps(value, 1));
  _mm_storeu_ps(to + 2 * step, _mm512_extractf32x4_ps(value, 2));
  _mm_storeu_ps(to + 3 * step, _mm512_extractf32x4_ps(value, 3));
}

// Numbers of a block's columns, in a block's order. `from` points at the block's first; `stride` 0 is one number.
template <int Bits>
EFFICIENT_VNNI inline void Arrange(const float* from, int64_t stride, int64_t columns, __m512* out) {
  constexpr int V = Block<Bits>::V;
  constexpr int64_t C = Block<Bits>::kColumns;
  if (!stride) {
    for (int v = 0; v < V; ++v) out[v] = _mm512_set1_ps(from[0]);
    return;
  }
  float whole[C];
  if (columns < C) {
    std::memcpy(whole, from, columns * sizeof(float));
    std::memset(whole + columns, 0, (C - columns) * sizeof(float));
    from = whole;
  }
  if (Bits == 8) {
    for (int v = 0; v < 4; ++v) out[v] = Lanes(from + 4 * v, 16);
    return;
  }
  for (int q = 0; q < 4; ++q) {
    const __m512 first = Lanes(from + 8 * q, 32), second = Lanes(from + 8 * q + 4, 32);
    out[2 * q] = _mm512_shuffle_ps(first, second, 0x88);
    out[2 * q + 1] = _mm512_shuffle_ps(first, second, 0xDD);
  }
}

// The reverse, to memory, times `step`.
template <int Bits>
EFFICIENT_VNNI inline void Store(const __m512* block, float step, int64_t columns, float* to) {
  constexpr int64_t C = Block<Bits>::kColumns;
  const __m512 by = _mm512_set1_ps(step);
  float whole[C];
  float* out = columns < C ? whole : to;
  if (Bits == 8) {
    for (int v = 0; v < 4; ++v) StoreLanes(_mm512_mul_ps(block[v], by), out + 4 * v, 16);
  } else {
    for (int q = 0; q < 4; ++q) {
      const __m512 even = _mm512_mul_ps(block[2 * q], by), odd = _mm512_mul_ps(block[2 * q + 1], by);
      StoreLanes(_mm512_unpacklo_ps(even, odd), out + 8 * q, 32);
      StoreLanes(_mm512_unpackhi_ps(even, odd), out + 8 * q + 4, 32);
    }
  }
  if (columns < C) std::memcpy(to, whole, columns * sizeof(float));
}

template <int Bits>
inline __mmask64 Mask(int64_t columns) {
  const int64_t bytes = Bits == 4 ? (columns + 1) / 2 : columns;
  return bytes >= 64 ? ~__mmask64{0} : (__mmask64{1} << bytes) - 1;
}

template <int Bits>
inline const uint8_t* Codes(const Problem& p, int64_t k, int64_t n) {
  return p.codes + k * p.pitch + (Bits == 4 ? n / 2 : n);
}

// R rows of x times W blocks side by side, codes turned in registers.
template <int Bits, int R, int W>
EFFICIENT_VNNI void Few(const Problem& p, int64_t m0, int64_t n0) {
  constexpr int V = Block<Bits>::V;
  constexpr int64_t C = Block<Bits>::kColumns;
  int64_t columns[W];
  __mmask64 mask[W];
  for (int w = 0; w < W; ++w) {
    columns[w] = std::min(C, p.n - n0 - w * C);
    mask[w] = Mask<Bits>(columns[w]);
  }
  __m512 totals[R][W][V];
  for (int r = 0; r < R; ++r)
    for (int w = 0; w < W; ++w)
      for (int v = 0; v < V; ++v) totals[r][w][v] = _mm512_setzero_ps();
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    __m512i sums[R][W][V];
    for (int r = 0; r < R; ++r)
      for (int w = 0; w < W; ++w)
        for (int v = 0; v < V; ++v) sums[r][w][v] = _mm512_setzero_si512();
    const uint8_t* row = Codes<Bits>(p, piece.k0, n0);
    const int32_t* x = p.values.data() + m0 * p.quads + piece.quad;
    for (int64_t q = 0, k = piece.k0; k < piece.k1; ++q, k += 4, row += 4 * p.pitch) {
      for (int w = 0; w < W; ++w) {
        for (int j = 0; j < 4; ++j)
          _mm_prefetch(reinterpret_cast<const char*>(row + (16 + j) * p.pitch + 64 * w), _MM_HINT_T0);
        __m512i codes[V];
        Quad<Bits>(row + 64 * w, p.pitch, piece.k1 - k, mask[w], codes);
        for (int r = 0; r < R; ++r) {
          const __m512i value = _mm512_set1_epi32(x[r * p.quads + q]);
          for (int v = 0; v < V; ++v) sums[r][w][v] = _mm512_dpbusd_epi32(sums[r][w][v], codes[v], value);
        }
      }
    }
    for (int w = 0; w < W; ++w) {
      __m512 scale[V], shift[V];
      const int64_t n = n0 + w * C;
      Arrange<Bits>(p.Scale(piece.run) + (p.scale_stride ? n : 0), p.scale_stride, columns[w], scale);
      if (p.shift)
        Arrange<Bits>(p.Shift(piece.run) + (p.shift_stride ? n : 0), p.shift_stride, columns[w], shift);
      for (int r = 0; r < R; ++r) {
        const __m512 whole = _mm512_set1_ps(p.sums[(m0 + r) * p.pieces.size() + i]);
        for (int v = 0; v < V; ++v) {
          __m512 part = _mm512_cvtepi32_ps(sums[r][w][v]);
          if (p.shift) part = _mm512_fnmadd_ps(shift[v], whole, part);
          totals[r][w][v] = _mm512_fmadd_ps(part, scale[v], totals[r][w][v]);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int w = 0; w < W; ++w)
      Store<Bits>(totals[r][w], p.steps[m0 + r], columns[w], p.y + (m0 + r) * p.n + n0 + w * C);
}

// R rows of x times four registers of columns of a turned piece, added to totals.
template <int R, int V>
EFFICIENT_VNNI inline void Multiply(const Problem& p, size_t i, int64_t m, const __m512i* tile, const __m512* scale,
                                    const __m512* shift, float* totals) {
  const Piece& piece = p.pieces[i];
  const int32_t* x = p.values.data() + m * p.quads + piece.quad;
  __m512i sums[R][4];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < 4; ++c) sums[r][c] = _mm512_setzero_si512();
  const int64_t quads = piece.quads();
  for (int64_t q = 0; q < quads; ++q) {
    const __m512i* codes = tile + q * V;
    const __m512i w0 = codes[0], w1 = codes[1], w2 = codes[2], w3 = codes[3];
    for (int r = 0; r < R; ++r) {
      const __m512i value = _mm512_set1_epi32(x[r * p.quads + q]);
      sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], w0, value);
      sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], w1, value);
      sums[r][2] = _mm512_dpbusd_epi32(sums[r][2], w2, value);
      sums[r][3] = _mm512_dpbusd_epi32(sums[r][3], w3, value);
    }
  }
  for (int r = 0; r < R; ++r) {
    const __m512 whole = _mm512_set1_ps(p.sums[(m + r) * p.pieces.size() + i]);
    for (int c = 0; c < 4; ++c) {
      __m512 part = _mm512_cvtepi32_ps(sums[r][c]);
      if (p.shift) part = _mm512_fnmadd_ps(shift[c], whole, part);
      float* total = totals + 16 * (r * V + c);
      _mm512_storeu_ps(total, _mm512_fmadd_ps(part, scale[c], _mm512_loadu_ps(total)));
    }
  }
}

#if EFFICIENT_HAS_AMX

#define EFFICIENT_AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,amx-tile,amx-int8")))

// Whether the machine multiplies tiles, and the system lets this process.
bool HasAmx() {
  static const bool has = [] {
    unsigned a = 7, b = 0, c = 0, d = 0;
    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    const bool tiles = (d >> 24) & 1, integers = (d >> 25) & 1;
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
    return HasVnni() && tiles && integers && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  }();
  return has;
}

// Tiles 0 to 3 are sums of 16 x 16, 4 and 5 are of x, 6 and 7 of W; `step` quads, 1 to 16, are multiplied at once.
EFFICIENT_AMX inline void Configure(int64_t step) {
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

// 16 rows of sums of 16 columns, added to totals.
template <int V>
EFFICIENT_AMX inline void Add(const Problem& p, size_t i, int64_t m, const int32_t* sums, __m512 scale, __m512 shift,
                              float* totals) {
  const float* whole = p.sums.data() + m * p.pieces.size() + i;
  for (int r = 0; r < 16; ++r, totals += 16 * V, whole += p.pieces.size()) {
    __m512 part = _mm512_cvtepi32_ps(_mm512_load_si512(sums + 16 * r));
    if (p.shift) part = _mm512_fnmadd_ps(shift, _mm512_set1_ps(*whole), part);
    _mm512_storeu_ps(totals, _mm512_fmadd_ps(part, scale, _mm512_loadu_ps(totals)));
  }
}

// Rows m to m + 32 (m + 16 where `pair` is false) times all columns of a turned piece, filled up to whole steps.
template <int V>
EFFICIENT_AMX inline void MultiplyTiles(const Problem& p, size_t i, int64_t m, bool pair, int64_t step,
                                        const __m512i* tile, const __m512* scale, const __m512* shift, float* totals) {
  const Piece& piece = p.pieces[i];
  const int32_t* x = p.values.data() + m * p.quads + piece.quad;
  const int64_t pitch = p.quads * 4, quads = piece.quads();
  alignas(64) int32_t sums[4][256];
  for (int c = 0; c < V; c += 2) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t q = 0; q < quads; q += step) {
      _tile_loadd(6, tile + q * V + c, V * 64);
      _tile_loadd(7, tile + q * V + c + 1, V * 64);
      _tile_loadd(4, x + q, pitch);
      _tile_dpbsud(0, 4, 6);
      _tile_dpbsud(1, 4, 7);
      if (pair) {
        _tile_loadd(5, x + 16 * p.quads + q, pitch);
        _tile_dpbsud(2, 5, 6);
        _tile_dpbsud(3, 5, 7);
      }
    }
    _tile_stored(0, sums[0], 64);
    _tile_stored(1, sums[1], 64);
    Add<V>(p, i, m, sums[0], scale[c], shift[c], totals + 16 * c);
    Add<V>(p, i, m, sums[1], scale[c + 1], shift[c + 1], totals + 16 * (c + 1));
    if (pair) {
      _tile_stored(2, sums[2], 64);
      _tile_stored(3, sums[3], 64);
      Add<V>(p, i, m + 16, sums[2], scale[c], shift[c], totals + 16 * (c + 16 * V));
      Add<V>(p, i, m + 16, sums[3], scale[c + 1], shift[c + 1], totals + 16 * (c + 1 + 16 * V));
    }
  }
}

// As `Many` below; rows of x are there up to a multiple of 16.
template <int Bits>
EFFICIENT_AMX void ManyTiles(const Problem& p, int64_t m0, int64_t m1, int64_t n0) {
  constexpr int V = Block<Bits>::V;
  constexpr int64_t C = Block<Bits>::kColumns;
  const int64_t columns = std::min(C, p.n - n0), rows = m1 - m0, whole = (rows + 15) / 16 * 16;
  const __mmask64 mask = Mask<Bits>(columns);
  alignas(64) __m512i tile[(kPiece / 4 + 16) * V];
  std::vector<float> totals(whole * C, 0.0f);
  int64_t step = 1;
  for (const Piece& piece : p.pieces) step = std::max(step, std::min<int64_t>(16, piece.quads()));
  Configure(step);
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    const uint8_t* row = Codes<Bits>(p, piece.k0, n0);
    for (int64_t q = 0; q < piece.quads(); ++q, row += 4 * p.pitch)
      Quad<Bits>(row, p.pitch, piece.k1 - piece.k0 - 4 * q, mask, tile + q * V);
    for (int64_t q = piece.quads() * V; q < (piece.quads() + step - 1) / step * step * V; ++q)
      tile[q] = _mm512_setzero_si512();
    __m512 scale[V], shift[V];
    Arrange<Bits>(p.Scale(piece.run) + (p.scale_stride ? n0 : 0), p.scale_stride, columns, scale);
    for (int v = 0; v < V; ++v) shift[v] = _mm512_setzero_ps();
    if (p.shift) Arrange<Bits>(p.Shift(piece.run) + (p.shift_stride ? n0 : 0), p.shift_stride, columns, shift);
    for (int64_t r = 0; r < whole; r += 32)
      MultiplyTiles<V>(p, i, m0 + r, r + 16 < whole, step, tile, scale, shift, totals.data() + r * C);
  }
  _tile_release();
  for (int64_t r = 0; r < rows; ++r) {
    __m512 block[V];
    for (int v = 0; v < V; ++v) block[v] = _mm512_loadu_ps(totals.data() + r * C + 16 * v);
    Store<Bits>(block, p.steps[m0 + r], columns, p.y + (m0 + r) * p.n + n0);
  }
}

#endif  // EFFICIENT_HAS_AMX

// Rows m0 to m1 of one block of columns: each piece is turned once, then multiplied with all rows.
template <int Bits>
EFFICIENT_VNNI void Many(const Problem& p, int64_t m0, int64_t m1, int64_t n0) {
  constexpr int V = Block<Bits>::V;
  constexpr int64_t C = Block<Bits>::kColumns;
  const int64_t columns = std::min(C, p.n - n0), rows = m1 - m0;
  const __mmask64 mask = Mask<Bits>(columns);
  alignas(64) __m512i tile[kPiece / 4 * V];
  std::vector<float> totals(rows * C, 0.0f);
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    const uint8_t* row = Codes<Bits>(p, piece.k0, n0);
    for (int64_t q = 0; q < piece.quads(); ++q, row += 4 * p.pitch)
      Quad<Bits>(row, p.pitch, piece.k1 - piece.k0 - 4 * q, mask, tile + q * V);
    __m512 scale[V], shift[V];
    Arrange<Bits>(p.Scale(piece.run) + (p.scale_stride ? n0 : 0), p.scale_stride, columns, scale);
    if (p.shift) Arrange<Bits>(p.Shift(piece.run) + (p.shift_stride ? n0 : 0), p.shift_stride, columns, shift);
    for (int c = 0; c < V; c += 4) {  // a tile's half stays in the first cache
      int64_t r = 0;
      for (; r + 6 <= rows; r += 6)
        Multiply<6, V>(p, i, m0 + r, tile + c, scale + c, shift + c, totals.data() + r * C + 16 * c);
      for (; r + 2 <= rows; r += 2)
        Multiply<2, V>(p, i, m0 + r, tile + c, scale + c, shift + c, totals.data() + r * C + 16 * c);
      for (; r < rows; ++r)
        Multiply<1, V>(p, i, m0 + r, tile + c, scale + c, shift + c, totals.data() + r * C + 16 * c);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    __m512 block[V];
    for (int v = 0; v < V; ++v) block[v] = _mm512_loadu_ps(totals.data() + r * C + 16 * v);
    Store<Bits>(block, p.steps[m0 + r], columns, p.y + (m0 + r) * p.n + n0);
  }
}

template <int Bits>
void RunWide(const Problem& p, ffi::ThreadPool& pool, bool has_tiles) {
  constexpr int64_t C = Block<Bits>::kColumns;
  if (p.m <= 3) {
    constexpr int W = 2;
    efficient::ParallelFor(pool, (p.n + W * C - 1) / (W * C), p.Work(), [&](int64_t b) {
      const int64_t n = b * W * C;
      for (int64_t m = 0; m < p.m; ++m) {
        if (n + C < p.n) {
          Few<Bits, 1, W>(p, m, n);
        } else {
          Few<Bits, 1, 1>(p, m, n);
        }
      }
    });
    return;
  }
  const int64_t across = (p.n + C - 1) / C, down = (p.m + kChunk - 1) / kChunk;
  efficient::ParallelFor(pool, across * down, p.Work(), [&](int64_t i) {
    const int64_t m0 = i / across * kChunk, m1 = std::min(p.m, m0 + kChunk);
#if EFFICIENT_HAS_AMX
    if (has_tiles) {
      ManyTiles<Bits>(p, m0, m1, i % across * C);
      return;
    }
#endif
    Many<Bits>(p, m0, m1, i % across * C);
  });
}

#endif  // EFFICIENT_X86

// The same for any machine, 64 columns at a time.
#if EFFICIENT_X86 && !defined(__clang__)
__attribute__((target_clones("avx2", "default")))
#endif
void Portable(const Problem& p, int64_t m0, int64_t m1, int64_t n0) {
  const int64_t columns = std::min(kBlock, p.n - n0), rows = m1 - m0;
  std::vector<int16_t> tile(kPiece * kBlock, 0);
  std::vector<float> totals(rows * kBlock, 0.0f);
  for (size_t i = 0; i < p.pieces.size(); ++i) {
    const Piece& piece = p.pieces[i];
    for (int64_t k = piece.k0; k < piece.k1; ++k) {
      const uint8_t* row = p.codes + k * p.pitch;
      int16_t* out = tile.data() + (k - piece.k0) * kBlock;
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t n = n0 + j;
        out[j] = p.bits == 4 ? (row[n / 2] >> (4 * (n % 2))) & 15 : row[n];
      }
    }
    const float* scale = p.Scale(piece.run);
    const float* shift = p.shift ? p.Shift(piece.run) : nullptr;
    for (int64_t m = m0; m < m1; ++m) {
      const int8_t* x = reinterpret_cast<const int8_t*>(p.values.data() + m * p.quads + piece.quad);
      int32_t sums[kBlock] = {};
      for (int64_t k = 0; k < piece.k1 - piece.k0; ++k) {
        const int16_t value = x[k];
        const int16_t* row = tile.data() + k * kBlock;
        for (int64_t j = 0; j < kBlock; ++j) sums[j] += static_cast<int32_t>(value) * row[j];
      }
      const float whole = p.sums[m * p.pieces.size() + i];
      float* total = totals.data() + (m - m0) * kBlock;
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t n = n0 + j;
        float part = static_cast<float>(sums[j]);
        if (shift) part -= shift[p.shift_stride ? n : 0] * whole;
        total[j] += part * scale[p.scale_stride ? n : 0];
      }
    }
  }
  for (int64_t m = m0; m < m1; ++m)
    for (int64_t j = 0; j < columns; ++j)
      p.y[m * p.n + n0 + j] = totals[(m - m0) * kBlock + j] * p.steps[m];
}

ffi::Error Refused(const std::string& what) { return ffi::Error::InvalidArgument("int8_matmul: " + what); }

// Of a [G, N or 1] argument, whether it has a number a column.
bool Fits(const ffi::Buffer<ffi::F32>& buffer, int64_t groups, int64_t n, int64_t* stride) {
  const auto d = buffer.dimensions();
  if (d.size() != 2 || d[0] != groups || (d[1] != n && d[1] != 1)) return false;
  *stride = d[1] == n ? 1 : 0;
  return true;
}

ffi::Error Run(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::U8> codes,
               ffi::Buffer<ffi::F32> scale, ffi::Buffer<ffi::F32> shift, ffi::Buffer<ffi::F32> x_scale,
               ffi::ResultBuffer<ffi::F32> y, int64_t bits, int64_t group, int64_t tier) {
  const auto dx = x.dimensions(), dc = codes.dimensions(), dy = y->dimensions();
  if (dx.size() != 2 || dc.size() != 2 || dy.size() != 2) return Refused("x, codes and y must have two axes");
  Problem p{};
  p.m = dx[0], p.k = dx[1], p.n = dy[1], p.pitch = dc[1], p.bits = static_cast<int>(bits);
  if (bits != 4 && bits != 8) return Refused("bits must be 4 or 8, got " + std::to_string(bits));
  if (group < 1) return Refused("group must be from 1, got " + std::to_string(group));
  group = std::min(group, std::max<int64_t>(p.k, 1));  // sums with it cannot overflow
  if (dy[0] != p.m || dc[0] != p.k || p.pitch != (bits == 4 ? (p.n + 1) / 2 : p.n))
    return Refused("shapes of x, codes and y must go together");
  const int64_t groups = (p.k + group - 1) / group;
  if (!Fits(scale, groups, p.n, &p.scale_stride)) return Refused("scale must be [runs of rows, columns or 1]");
  const bool has_shift = shift.element_count() > 0;
  if (has_shift && !Fits(shift, groups, p.n, &p.shift_stride))
    return Refused("shift must be [runs of rows, columns or 1], or empty");
  if (x_scale.element_count() > 1) return Refused("x_scale must be one number, or empty");
  p.x = x.typed_data(), p.codes = codes.typed_data(), p.scale = scale.typed_data(), p.y = y->typed_data();
  p.shift = has_shift ? shift.typed_data() : nullptr;
  if (p.m == 0 || p.n == 0) return ffi::Error::Success();

  Cut(p, group);
  const int64_t whole = (p.m + 15) / 16 * 16;  // tiles read 16 rows at once, and a row's end and 60 bytes
  p.values.assign(whole * p.quads + 16, 0);
  p.sums.assign(whole * p.pieces.size(), 0.0f);
  p.steps.assign(p.m, 0.0f);
  const float* fixed = x_scale.element_count() ? x_scale.typed_data() : nullptr;
  const int64_t at_once = std::max<int64_t>(1, 32768 / std::max<int64_t>(p.k, 1));
  efficient::ParallelFor(pool, (p.m + at_once - 1) / at_once, 8 * p.m * p.k, [&](int64_t i) {
    for (int64_t m = i * at_once; m < std::min(p.m, (i + 1) * at_once); ++m) RoundRow(p, m, fixed);
  });
#if EFFICIENT_X86
  if (HasVnni() && tier != 1) {
    bool has_tiles = false;
#if EFFICIENT_HAS_AMX
    has_tiles = tier != 2 && p.m >= kTiles && HasAmx();
#endif
    bits == 4 ? RunWide<4>(p, pool, has_tiles) : RunWide<8>(p, pool, has_tiles);
    return ffi::Error::Success();
  }
#endif
  const int64_t across = (p.n + kBlock - 1) / kBlock, down = (p.m + kChunk - 1) / kChunk;
  efficient::ParallelFor(pool, across * down, p.Work(), [&](int64_t i) {
    const int64_t m0 = i / across * kChunk;
    Portable(p, m0, std::min(p.m, m0 + kChunk), i % across * kBlock);
  });
  return ffi::Error::Success();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(EfficientInt8Matmul, Run,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("group")
                                  .Attr<int64_t>("tier"));
