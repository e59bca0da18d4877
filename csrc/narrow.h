// Products with matrices of a few columns, for which tiles are too wide. To be included where there
// are tiles. Letters: x[B, K], w[K, O], y[B, O]; K is a multiple of 16.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "tiles.h"

namespace fastrl {
namespace tiles {

#define FASTRL_VECTOR_TARGET __attribute__((target("avx512f")))
FASTRL_QUIET_INTRINSICS

inline bool IsNarrow(int64_t num_columns) { return num_columns <= 8; }

// A copy [O, K] of w, in this thread's memory until the next one.
inline const float* ColumnsOf(const Matrix& w) {
  thread_local std::vector<float> columns;
  columns.resize(static_cast<size_t>(w.num_rows * w.num_columns));
  for (int64_t o = 0; o < w.num_columns; ++o) {
    for (int64_t k = 0; k < w.num_rows; ++k) {
      columns[o * w.num_rows + k] = w.data[k * w.row_stride + o * w.column_stride];
    }
  }
  return columns.data();
}

// y = x w + bias
FASTRL_VECTOR_TARGET inline void MultiplyNarrow(const Matrix& x, const Matrix& w, const float* bias,
                                                float* y) {
  const int64_t K = w.num_rows, O = w.num_columns;
  const float* columns = ColumnsOf(w);
  for (int64_t b = 0; b < x.num_rows; ++b) {
    const float* row = x.data + b * x.row_stride;
    for (int64_t o = 0; o < O; ++o) {
      __m512 sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
      for (int64_t k = 0; k < K; k += 16) {
        sums[k / 16 % 2] = _mm512_fmadd_ps(_mm512_loadu_ps(row + k),
                                           _mm512_loadu_ps(columns + o * K + k), sums[k / 16 % 2]);
      }
      y[b * O + o] = bias[o] + _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
    }
  }
}

// d_x = d_y w^T, 0 where a ReLU's outputs [B, K] are.
FASTRL_VECTOR_TARGET inline void MultiplyNarrowBack(const Matrix& d_y, const Matrix& w,
                                                    const float* outputs, float* d_x) {
  const int64_t K = w.num_rows, O = w.num_columns;
  const float* columns = ColumnsOf(w);
  for (int64_t b = 0; b < d_y.num_rows; ++b) {
    for (int64_t k = 0; k < K; k += 16) {
      __m512 sum = _mm512_setzero_ps();
      for (int64_t o = 0; o < O; ++o) {
        const __m512 factor = _mm512_set1_ps(d_y.data[b * d_y.row_stride + o]);
        sum = _mm512_fmadd_ps(factor, _mm512_loadu_ps(columns + o * K + k), sum);
      }
      const __m512 y = _mm512_loadu_ps(outputs + b * K + k);
      const __mmask16 is_on = _mm512_cmp_ps_mask(y, _mm512_setzero_ps(), _CMP_NLE_UQ);
      _mm512_storeu_ps(d_x + b * K + k, _mm512_maskz_mov_ps(is_on, sum));
    }
  }
}

// Sums over rows go in two steps, so that few numbers of one size are added to many of another.
constexpr int64_t kRowsOfSum = 16;

// d_w = x^T d_y, with the strides of w.
FASTRL_VECTOR_TARGET inline void MultiplyNarrowRows(const Matrix& x, const Matrix& d_y,
                                                    const Matrix& w, float* d_w) {
  for (int64_t o = 0; o < w.num_columns; ++o) {
    for (int64_t k = 0; k < w.num_rows; k += 16) {
      __m512 total = _mm512_setzero_ps();
      for (int64_t first = 0; first < x.num_rows; first += kRowsOfSum) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t b = first; b < std::min(first + kRowsOfSum, x.num_rows); ++b) {
          const __m512 factor = _mm512_set1_ps(d_y.data[b * d_y.row_stride + o]);
          sum = _mm512_fmadd_ps(factor, _mm512_loadu_ps(x.data + b * x.row_stride + k), sum);
        }
        total = _mm512_add_ps(total, sum);
      }
      alignas(64) float values[16];
      _mm512_store_ps(values, total);
      for (int64_t i = 0; i < 16; ++i)
        d_w[(k + i) * w.row_stride + o * w.column_stride] = values[i];
    }
  }
}

// sums[K] of the rows of x[B, K], for any K.
FASTRL_VECTOR_TARGET inline void SumRows(const Matrix& x, float* sums) {
  for (int64_t k = 0; k < x.num_columns; k += 16) {
    const __mmask16 lanes = FirstLanes(x.num_columns - k);
    __m512 total = _mm512_setzero_ps();
    for (int64_t first = 0; first < x.num_rows; first += kRowsOfSum) {
      __m512 sum = _mm512_setzero_ps();
      for (int64_t b = first; b < std::min(first + kRowsOfSum, x.num_rows); ++b) {
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, x.data + b * x.row_stride + k));
      }
      total = _mm512_add_ps(total, sum);
    }
    _mm512_mask_storeu_ps(sums + k, lanes, total);
  }
}

FASTRL_LOUD_AGAIN
#undef FASTRL_VECTOR_TARGET

}  // namespace tiles
}  // namespace fastrl
