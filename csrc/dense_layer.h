// One dense layer over some rows: its product forwards, and what its gradient adds up from.
//
// Rows are padded with zeros to whole vectors. Letters: K and N inputs and outputs of a layer.

#pragma once

#include "activations.h"

#if FASTRL_DENSE

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "products.h"
#include "scratch.h"

namespace fastrl {

struct DenseLayer {
  int64_t num_inputs, num_outputs;
  bool has_rows;  // the weight, and so its gradient, lies as [K, N], or else as [N, K]
  const float* weight = nullptr;
  const float* bias = nullptr;
  float* d_weight = nullptr;
  float* d_bias = nullptr;
};

namespace dense {

inline int64_t Padded(int64_t size) { return (size + 15) / 16 * 16; }

// Numbers from one row to the next of what a layer gives. Rows that lie 512 bytes apart, or a
// multiple of it, would push one another out of the first cache.
inline int64_t StrideOf(int64_t size) { return Padded(size) + (Padded(size) % 128 == 0 ? 16 : 0); }

// This thread's memory for one purpose.
enum Purpose {
  kWeights,
  kGradients,
  kInputs,
  kOutputs,
  kFirst,
  kSecond,
  kRows,     // of acting
  kActions,  // of acting
  kKept,     // of the objective
  kInputGradients,
  kNumPurposes
};
inline float* Memory(Purpose purpose, int64_t count) {
  thread_local Scratch<float> scratch[kNumPurposes];
  return scratch[purpose].OfSize(count);
}

template <typename Shape>
constexpr int64_t kPanel = 2 * Shape::kLanes;

// to [4, 4] = from^T
FASTRL_INLINE void TransposeFour(const float* from, int64_t from_stride, float* to,
                                 int64_t to_stride) {
#if FASTRL_SHUFFLES
  typedef float Four __attribute__((vector_size(16)));
  Four rows[4], pairs[4];
  for (int i = 0; i < 4; ++i) std::memcpy(&rows[i], from + i * from_stride, sizeof(Four));
  pairs[0] = __builtin_shufflevector(rows[0], rows[1], 0, 4, 1, 5);
  pairs[1] = __builtin_shufflevector(rows[2], rows[3], 0, 4, 1, 5);
  pairs[2] = __builtin_shufflevector(rows[0], rows[1], 2, 6, 3, 7);
  pairs[3] = __builtin_shufflevector(rows[2], rows[3], 2, 6, 3, 7);
  for (int i = 0; i < 4; i += 2) {
    rows[i] = __builtin_shufflevector(pairs[i], pairs[i + 1], 0, 1, 4, 5);
    rows[i + 1] = __builtin_shufflevector(pairs[i], pairs[i + 1], 2, 3, 6, 7);
  }
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_stride, &rows[i], sizeof(Four));
#else
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < 4; ++j) to[i * to_stride + j] = from[j * from_stride + i];
  }
#endif
}

// Packs a matrix [K, N] that lies as [K, N], or as [N, K], into panels of columns as wide as a
// tile, with zeros behind the last column: K * Padded(N) numbers.
template <typename Shape>
FASTRL_INLINE void Pack(const float* matrix, bool has_rows, int64_t K, int64_t N, float* to) {
  for (int64_t first = 0; first < Padded(N); first += kPanel<Shape>) {
    const int64_t width = std::min(kPanel<Shape>, Padded(N) - first);
    const int64_t used = std::max<int64_t>(0, std::min(width, N - first));
    if (has_rows && used == kPanel<Shape>) {  // a size that the compiler knows
      for (int64_t k = 0; k < K; ++k, to += kPanel<Shape>) {
        std::memcpy(to, matrix + k * N + first, kPanel<Shape> * sizeof(float));
      }
      continue;
    }
    const int64_t num_fours = has_rows ? 0 : K / 4 * 4;
    for (int64_t n = 0; n < used / 4 * 4; n += 4) {
      for (int64_t k = 0; k < num_fours; k += 4) {
        TransposeFour(matrix + (first + n) * K + k, K, to + k * width + n, width);
      }
    }
    for (int64_t k = 0; k < K; ++k, to += width) {
      if (has_rows) {
        std::memcpy(to, matrix + k * N + first, static_cast<size_t>(used) * sizeof(float));
      } else {
        for (int64_t n = k < num_fours ? used / 4 * 4 : 0; n < used; ++n) {
          to[n] = matrix[(first + n) * K + k];
        }
      }
      if (used < width) std::fill(to + used, to + width, 0.0f);
    }
  }
}

// c [rows, Padded(N)] = a [rows, K] times a packed matrix; `make_end(n)` says for the panel at
// column n what becomes of the sums.
template <typename Shape, typename MakeEnd>
FASTRL_INLINE void MultiplyPacked(const InRows& a, const float* packed, int64_t K, int64_t N,
                                  float* c, int64_t rows, const MakeEnd& make_end) {
  const int64_t width = Padded(N), stride = StrideOf(N);
  for (int64_t n = 0; n < width; n += kPanel<Shape>) {
    if (width - n >= kPanel<Shape>) {
      Columns<Shape, 2>(a, packed + n * K, kPanel<Shape>, c + n, stride, rows, K, make_end(n));
    } else {
      Columns<Shape, 1>(a, packed + n * K, width - n, c + n, stride, rows, K, make_end(n));
    }
  }
}

// y [rows, Padded(N)] = x times a layer's packed weight plus its bias, which lies behind the
// weight, and with a ReLU 0 where that is less. Returns where the bias ends.
template <typename Shape, bool kHasRelu>
FASTRL_INLINE const float* Multiply(const InRows& x, const float* weight, const DenseLayer& layer,
                                    float* y, int64_t rows) {
  const int64_t K = layer.num_inputs, N = layer.num_outputs;
  const float* const bias = weight + K * Padded(N);
  MultiplyPacked<Shape>(x, weight, K, N, y, rows,
                        [&](int64_t n) { return PutWithBias<Shape, kHasRelu>{bias + n}; });
  return bias + Padded(N);
}

// c [M, width] += a^T b for a [rows, M] and b [rows, width]
template <typename Shape>
FASTRL_INLINE void AddOuter(const float* a, int64_t a_stride, int64_t M, const float* b,
                            int64_t b_stride, int64_t width, float* c, int64_t rows) {
  const InColumns left{a, a_stride};
  for (int64_t n = 0; n < width; n += kPanel<Shape>) {
    if (width - n >= kPanel<Shape>) {
      Columns<Shape, 2>(left, b + n, b_stride, c + n, width, M, rows, AddTo<Shape>{});
    } else {
      Columns<Shape, 1>(left, b + n, b_stride, c + n, width, M, rows, AddTo<Shape>{});
    }
  }
}

// The gradient of a layer as it adds up, padded: [K, Padded(N)] or [N, Padded(K)], and [Padded(N)].
struct Sums {
  const DenseLayer* layer;
  float *weight, *bias;

  int64_t NumLines() const { return layer->has_rows ? layer->num_inputs : layer->num_outputs; }
  int64_t Width() const { return layer->has_rows ? layer->num_outputs : layer->num_inputs; }
  int64_t Size() const { return NumLines() * Padded(Width()) + Padded(layer->num_outputs); }

  // Takes in rows of inputs x and of d, both with padding.
  template <typename Shape>
  FASTRL_INLINE void Add(const float* x, const float* d, int64_t rows) const {
    const int64_t K = layer->num_inputs, N = layer->num_outputs;
    const int64_t x_stride = StrideOf(K), d_stride = StrideOf(N);
    if (layer->has_rows) {
      AddOuter<Shape>(x, x_stride, K, d, d_stride, Padded(N), weight, rows);
    } else {
      AddOuter<Shape>(d, d_stride, N, x, x_stride, Padded(K), weight, rows);
    }
    for (int64_t n = 0; n < Padded(N); n += Shape::kLanes) {
      typename Vectors<Shape>::Vector sum = {}, row;
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(&row, d + r * d_stride + n, sizeof(row));
        sum += row;
      }
      std::memcpy(&row, bias + n, sizeof(row));
      sum += row;
      std::memcpy(bias + n, &sum, sizeof(sum));
    }
  }

  void Clear() const { std::fill(weight, weight + Size(), 0.0f); }

  // Takes in some lines of another piece's, and with the first line the bias.
  void AddUp(const Sums& other, int64_t first, int64_t count) const {
    const int64_t stride = Padded(Width());
    for (int64_t i = first * stride; i < (first + count) * stride; ++i) {
      weight[i] += other.weight[i];
    }
    if (first > 0) return;
    for (int64_t n = 0; n < layer->num_outputs; ++n) bias[n] += other.bias[n];
  }

  void Store(int64_t first, int64_t count) const {
    const int64_t width = Width();
    for (int64_t line = first; line < first + count; ++line) {
      std::memcpy(layer->d_weight + line * width, weight + line * Padded(width),
                  static_cast<size_t>(width) * sizeof(float));
    }
    if (first > 0) return;
    std::memcpy(layer->d_bias, bias, static_cast<size_t>(layer->num_outputs) * sizeof(float));
  }
};

}  // namespace dense
}  // namespace fastrl

#endif
