// Float32 matrices cut for a processor's matrix tiles (Intel AMX); tile_products.h multiplies them.
//
// Tiles multiply bfloat16, which holds 8 of the 24 bits of a float32, at some ten times the rate of
// vectors of float32. So each number is cut into up to three bfloat16 that add up to it. Of the
// nine products of the pieces of two numbers six reach into the 24 bits; tiles add them up in
// float32. The result is as exact as float32 arithmetic, in less time: two networks of 256-256 take
// 256 rows forwards and backwards in 0.7 of torch's, on one thread. Two pieces and three products
// make 16 bits, one piece is a product in bfloat16: torch's matmul precisions "highest", "high" and
// "medium". Numbers below 1e-33 lose bits, as bfloat16 has none for their lower pieces; infinity,
// and what lies within a thousandth of it, becomes NaN.
//
// Letters: c[M, N] = a[M, K] b[K, N], P pieces.

#pragma once

#include <algorithm>
#include <cstdint>

#include "scratch.h"

#if defined(__linux__) && defined(__x86_64__) && (__GNUC__ >= 11 || __clang_major__ >= 12)
#define FASTRL_TILES 1
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define FASTRL_TILES 0
#endif

namespace fastrl {

// A matrix in memory; one of its strides is 1.
struct Matrix {
  const float* data;
  int64_t num_rows, num_columns, row_stride, column_stride;

  Matrix T() const { return {data, num_columns, num_rows, column_stride, row_stride}; }
  Matrix Rows(int64_t first, int64_t count) const {
    return {data + first * row_stride, count, num_columns, row_stride, column_stride};
  }
};

#if FASTRL_TILES

// Asks the system for the tiles, which a process may not use before.
inline bool HasTiles() {
  static const bool has_tiles = [] {
    constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAvx512Bf16 = 1u << 5;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    if (!(d & kAmxBf16) || !(d & kAmxTile)) return false;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & kAvx512Bf16)) return false;
    if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has_tiles;
}

// The intrinsics of GCC 12 warn of what they leave alone and then do not use.
#if defined(__clang__)
#define FASTRL_QUIET_INTRINSICS
#define FASTRL_LOUD_AGAIN
#else
#define FASTRL_QUIET_INTRINSICS                                                        \
  _Pragma("GCC diagnostic push") _Pragma("GCC diagnostic ignored \"-Wuninitialized\"") \
      _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")
#define FASTRL_LOUD_AGAIN _Pragma("GCC diagnostic pop")
#endif

FASTRL_QUIET_INTRINSICS

#define FASTRL_TILE_TARGET \
  __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))

namespace tiles {

using Bfloat16 = uint16_t;

constexpr int64_t kRows = 16, kDepth = 32;     // of a tile: rows, and numbers along K
constexpr int64_t kTileSize = kRows * kDepth;  // numbers
constexpr int64_t kRowBytes = 64;
constexpr int64_t kBlock = 2 * kRows;  // rows and columns that are multiplied at once

inline int64_t RoundUp(int64_t size) { return (size + kBlock - 1) / kBlock * kBlock; }

// Numbers in a factor once it is cut: its lines (rows of the left one, columns of the right one)
// and K are filled up with zeros.
inline int64_t PackedSize(int64_t num_lines, int64_t K, int64_t num_pieces) {
  return RoundUp(num_lines) * RoundUp(K) * num_pieces;
}

inline __mmask16 FirstLanes(int64_t count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}

// Cuts 32 numbers into pieces, the largest first. A piece is rounded, the rest is exact.
template <int P>
FASTRL_TILE_TARGET inline void Cut(__m512 low, __m512 high, __m512i* pieces) {
  for (int p = 0; p < P; ++p) {
    const auto piece = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    pieces[p] = piece;
    if (p + 1 == P) break;
    const __m512i low_bits = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(piece));
    const __m512i high_bits = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(piece, 1));
    low = _mm512_sub_ps(low, _mm512_castsi512_ps(_mm512_slli_epi32(low_bits, 16)));
    high = _mm512_sub_ps(high, _mm512_castsi512_ps(_mm512_slli_epi32(high_bits, 16)));
  }
}

// Transposes a tile of 16 x 16 pairs of bfloat16.
FASTRL_TILE_TARGET inline void Transpose(__m512i* rows) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // which quarters of the two go into the result
  for (int i = 0; i < 4; ++i) {
    for (int half = 0; half < 16; half += 8) {
      t[half + i] = _mm512_shuffle_i32x4(rows[half + i], rows[half + 4 + i], kEven);
      t[half + 4 + i] = _mm512_shuffle_i32x4(rows[half + i], rows[half + 4 + i], kOdd);
    }
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], kEven);
    rows[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], kOdd);
  }
}

// Cuts lines of numbers along K into tiles [lines / 16][K / 32][P]. Memory runs along K or across.
// A tile of a left factor is 16 lines of 32 numbers; one of a right factor is 16 rows of pairs
// along K, a pair for each of 16 lines.
template <int P, bool kAlong, bool kIsRight>
FASTRL_TILE_TARGET void PackLines(const float* data, int64_t stride, int64_t num_lines, int64_t K,
                                  Bfloat16* to) {
  const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  constexpr bool kIsTransposed = kAlong == kIsRight;
  for (int64_t line = 0; line < RoundUp(num_lines); line += kRows) {
    for (int64_t k = 0; k < K; k += kDepth, to += P * kTileSize) {
      __m512i tile[P][kRows];
      for (int64_t r = 0; r < kRows; ++r) {
        // Of a line, or of two rows across 16 lines.
        const float* low = data + (kAlong ? (line + r) * stride + k : (k + 2 * r) * stride + line);
        const float* high = low + (kAlong ? 16 : stride);
        const int64_t num_low =
            kAlong ? (line + r < num_lines ? K - k : 0) : (k + 2 * r < K ? num_lines - line : 0);
        const int64_t num_high = kAlong ? num_low - 16 : (k + 2 * r + 1 < K ? num_lines - line : 0);
        __m512i pieces[P];
        Cut<P>(_mm512_maskz_loadu_ps(FirstLanes(num_low), low),
               _mm512_maskz_loadu_ps(FirstLanes(num_high), high), pieces);
        for (int p = 0; p < P; ++p) {
          const __m512i row = kAlong ? pieces[p] : _mm512_permutexvar_epi16(pairs, pieces[p]);
          if constexpr (kIsTransposed) {
            tile[p][r] = row;
          } else {
            _mm512_store_si512(to + p * kTileSize + r * kDepth, row);
          }
        }
      }
      for (int p = 0; kIsTransposed && p < P; ++p) {
        Transpose(tile[p]);
        for (int64_t r = 0; r < kRows; ++r) {
          _mm512_store_si512(to + p * kTileSize + r * kDepth, tile[p][r]);
        }
      }
    }
  }
}

// Cuts a[M, K].
template <int P>
void PackLeft(const Matrix& a, Bfloat16* to) {
  if (a.column_stride == 1) {
    return PackLines<P, true, false>(a.data, a.row_stride, a.num_rows, a.num_columns, to);
  }
  PackLines<P, false, false>(a.data, a.column_stride, a.num_rows, a.num_columns, to);
}

// Cuts b[K, N].
template <int P>
void PackRight(const Matrix& b, Bfloat16* to) {
  if (b.column_stride == 1) {
    return PackLines<P, false, true>(b.data, b.row_stride, b.num_columns, b.num_rows, to);
  }
  PackLines<P, true, true>(b.data, b.column_stride, b.num_columns, b.num_rows, to);
}

}  // namespace tiles

FASTRL_LOUD_AGAIN

#else

inline bool HasTiles() { return false; }

#endif

}  // namespace fastrl
