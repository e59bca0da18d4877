// Products of matrices that are cut, in matrix tiles: tiles.h says how and how exactly.
//
// Letters: c[M, N] = a[M, K] b[K, N], P pieces.

#pragma once

#include "tiles.h"

#if FASTRL_TILES

#include <algorithm>
#include <cstdint>

namespace fastrl {

// What becomes of a product before it is stored.
struct Target {
  float* data;
  int64_t stride;        // between rows
  const float* bias;     // [N], added, or null
  bool relu;             // negative numbers become 0
  const float* outputs;  // of a ReLU, rows as far apart as those of the product, or null: numbers
                         // become 0 where it is 0
};

FASTRL_QUIET_INTRINSICS

namespace tiles {

// c[32, 32], four tiles of sums, replaced if `is_first` and else added to: of num_steps x P tiles
// of two lines of either side, `line_stride` apart.
template <int P>
FASTRL_TILE_TARGET inline void MultiplyBlock(const Bfloat16* a, const Bfloat16* b,
                                             int64_t num_steps, int64_t line_stride, bool is_first,
                                             float* c) {
  constexpr int64_t kStep = P * kTileSize, kBytes = kBlock * sizeof(float);
  if (is_first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, c, kBytes);
    _tile_loadd(1, c + kRows, kBytes);
    _tile_loadd(2, c + kRows * kBlock, kBytes);
    _tile_loadd(3, c + kRows * kBlock + kRows, kBytes);
  }
  for (int64_t k = 0; k < num_steps; ++k, a += kStep, b += kStep) {
#define FASTRL_LOAD_A(PIECE)                          \
  _tile_loadd(4, a + (PIECE) * kTileSize, kRowBytes); \
  _tile_loadd(5, a + line_stride + (PIECE) * kTileSize, kRowBytes);
#define FASTRL_LOAD_B(PIECE)                          \
  _tile_loadd(6, b + (PIECE) * kTileSize, kRowBytes); \
  _tile_loadd(7, b + line_stride + (PIECE) * kTileSize, kRowBytes);
#define FASTRL_MULTIPLY    \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(2, 5, 6); \
  _tile_dpbf16ps(3, 5, 7);
    // From small products to large ones, in the order with the fewest loads.
    if constexpr (P == 3) {
      FASTRL_LOAD_A(2)
      FASTRL_LOAD_B(0)
      FASTRL_MULTIPLY FASTRL_LOAD_A(1) FASTRL_MULTIPLY FASTRL_LOAD_B(1)
          FASTRL_MULTIPLY FASTRL_LOAD_A(0) FASTRL_MULTIPLY FASTRL_LOAD_B(2) FASTRL_MULTIPLY
    } else if constexpr (P == 2) {
      FASTRL_LOAD_A(1)
      FASTRL_LOAD_B(0) FASTRL_MULTIPLY FASTRL_LOAD_A(0) FASTRL_LOAD_B(1) FASTRL_MULTIPLY
    } else {
      FASTRL_LOAD_A(0)
    }
    FASTRL_LOAD_B(0) FASTRL_MULTIPLY
#undef FASTRL_LOAD_A
#undef FASTRL_LOAD_B
#undef FASTRL_MULTIPLY
  }
  _tile_stored(0, c, kBytes);
  _tile_stored(1, c + kRows, kBytes);
  _tile_stored(2, c + kRows * kBlock, kBytes);
  _tile_stored(3, c + kRows * kBlock + kRows, kBytes);
}

// Stores what of a block [32, 32] lies in the product, from row m and column n on.
FASTRL_TILE_TARGET inline void Store(const float* block, int64_t m, int64_t n, int64_t M, int64_t N,
                                     const Target& target) {
  const __m512 zero = _mm512_setzero_ps();
  for (int64_t part = 0; part < kBlock; part += kRows) {
    const __mmask16 lanes = FirstLanes(N - n - part);
    if (!lanes) break;
    const __m512 bias = target.bias ? _mm512_maskz_loadu_ps(lanes, target.bias + n + part) : zero;
    for (int64_t r = 0; r < kBlock && m + r < M; ++r) {
      const int64_t at = (m + r) * target.stride + n + part;
      __m512 sum = _mm512_add_ps(_mm512_load_ps(block + r * kBlock + part), bias);
      if (target.relu) sum = _mm512_max_ps(zero, sum);  // which is NaN where the second is
      if (target.outputs) {
        const __m512 outputs = _mm512_maskz_loadu_ps(lanes, target.outputs + at);
        sum = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(outputs, zero, _CMP_NLE_UQ), sum);
      }
      _mm512_mask_storeu_ps(target.data + at, lanes, sum);
    }
  }
}

// All tiles have 16 rows of 64 bytes.
struct alignas(64) Shapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr Shapes kShapes{};

// Tiles of a left factor that serve a row of blocks, one after the other, are to stay in the cache
// next to the core: of K up to kDeepestInPieces, kDepthAtOnce are taken at once. Beyond, tiles that
// come in order from the next cache are as fast. (Products of 256 x 256 x 256: 0.85 of the time.)
constexpr int64_t kDepthAtOnce = 128, kDeepestInPieces = 384, kBlocksAtOnce = 8;

// Multiplies factors that are cut; K is at least 1.
template <int P>
FASTRL_TILE_TARGET void Multiply(const Bfloat16* a, const Bfloat16* b, int64_t M, int64_t N,
                                 int64_t K, const Target& target) {
  alignas(64) float blocks[kBlocksAtOnce][kBlock * kBlock];
  const int64_t depth = RoundUp(K), line_stride = depth * P * kRows;
  const int64_t depth_at_once = depth <= kDeepestInPieces ? kDepthAtOnce : depth;
  _tile_loadconfig(&kShapes);
  asm volatile("" ::: "memory");  // factors are in memory before tiles load them
  for (int64_t m = 0; m < M; m += kBlock) {
    for (int64_t first_n = 0; first_n < N; first_n += kBlocksAtOnce * kBlock) {
      const int64_t num_blocks = std::min(kBlocksAtOnce, RoundUp(N - first_n) / kBlock);
      for (int64_t k = 0; k < depth; k += depth_at_once) {
        const int64_t num_steps = std::min(depth_at_once, depth - k) / kDepth;
        const bool is_last = k + depth_at_once >= depth;
        for (int64_t block = 0; block < num_blocks; ++block) {
          const int64_t n = first_n + block * kBlock;
          MultiplyBlock<P>(a + (m * depth + k * kRows) * P, b + (n * depth + k * kRows) * P,
                           num_steps, line_stride, k == 0, blocks[block]);
          // While tiles work on a block, vectors store the one before.
          if (is_last && block > 0) Store(blocks[block - 1], m, n - kBlock, M, N, target);
        }
      }
      const int64_t last = num_blocks - 1;
      Store(blocks[last], m, first_n + last * kBlock, M, N, target);
    }
  }
  _tile_release();
}

}  // namespace tiles

FASTRL_LOUD_AGAIN

}  // namespace fastrl

#endif
