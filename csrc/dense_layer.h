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
  kNumPurposes
};
inline float* Memory(Purpose purpose, int64_t count) {
  thread_local Scratch<float> scratch[kNumPurposes];
  return scratch[purpose].OfSize(count);
}

template <typename Shape>
constexpr int64_t kPanel = 2 * Shape::kLanes;

// Packs a matrix [K, N] that lies as [K, N], or as [N, K], into panels of columns as wide as a
// tile, with zeros behind the last column: K * Padded(N) numbers.
template <typename Shape>
FASTRL_INLINE void Pack(const float* matrix, bool has_rows, int64_t K, int64_t N, float* to) {
  for (int64_t first = 0; first < Padded(N); first += kPanel<Shape>) {
    const int64_t width = std::min(kPanel<Shape>, Padded(N) - first);
    const int64_t used = std::max<int64_t>(0, std::min(width, N - first));
    for (int64_t k = 0; k < K; ++k, to += width) {
      if (has_rows) {
        std::memcpy(to, matrix + k * N + first, static_cast<size_t>(used) * sizeof(float));
      } else {
        for (int64_t n = 0; n < used; ++n) to[n] = matrix[(first + n) * K + k];
      }
      std::fill(to + used, to + width, 0.0f);
    }
  }
}

// c [rows, Padded(N)] += a [rows, K] times a packed matrix
template <typename Shape>
FASTRL_INLINE void AddPacked(const InRows& a, const float* packed, int64_t K, int64_t N, float* c,
                             int64_t rows) {
  const int64_t stride = Padded(N);
  for (int64_t n = 0; n < stride; n += kPanel<Shape>) {
    if (stride - n >= kPanel<Shape>) {
      Columns<Shape, 2>(a, packed + n * K, kPanel<Shape>, c + n, stride, rows, K);
    } else {
      Columns<Shape, 1>(a, packed + n * K, stride - n, c + n, stride, rows, K);
    }
  }
}

// y [rows, Padded(N)] = x times a layer's packed weight plus its bias, which lies behind the
// weight. Returns where that ends.
template <typename Shape>
FASTRL_INLINE const float* Multiply(const InRows& x, const float* weight, const DenseLayer& layer,
                                    float* y, int64_t rows) {
  const int64_t K = layer.num_inputs, stride = Padded(layer.num_outputs);
  const float* const bias = weight + K * stride;
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(y + r * stride, bias, static_cast<size_t>(stride) * sizeof(float));
  }
  AddPacked<Shape>(x, weight, K, layer.num_outputs, y, rows);
  return bias + stride;
}

// c [M, stride] += a^T b for a [rows, M] and b [rows, stride]
template <typename Shape>
FASTRL_INLINE void AddOuter(const float* a, int64_t a_stride, int64_t M, const float* b,
                            int64_t stride, float* c, int64_t rows) {
  const InColumns left{a, a_stride};
  for (int64_t n = 0; n < stride; n += kPanel<Shape>) {
    if (stride - n >= kPanel<Shape>) {
      Columns<Shape, 2>(left, b + n, stride, c + n, stride, M, rows);
    } else {
      Columns<Shape, 1>(left, b + n, stride, c + n, stride, M, rows);
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

  // Takes in rows of inputs x, with that stride and with padding, and of d, which is padded.
  template <typename Shape>
  FASTRL_INLINE void Add(const float* x, int64_t x_stride, const float* d, int64_t rows) const {
    const int64_t d_stride = Padded(layer->num_outputs);
    if (layer->has_rows) {
      AddOuter<Shape>(x, x_stride, layer->num_inputs, d, d_stride, weight, rows);
    } else {
      AddOuter<Shape>(d, d_stride, layer->num_outputs, x, x_stride, weight, rows);
    }
    for (int64_t n = 0; n < d_stride; n += Shape::kLanes) {
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

  void AddUp(const Sums& other) const {
    for (int64_t i = 0; i < Size(); ++i) weight[i] += other.weight[i];  // biases lie behind
  }

  void Store() const {
    const int64_t width = Width();
    for (int64_t line = 0; line < NumLines(); ++line) {
      std::memcpy(layer->d_weight + line * width, weight + line * Padded(width),
                  static_cast<size_t>(width) * sizeof(float));
    }
    std::memcpy(layer->d_bias, bias, static_cast<size_t>(layer->num_outputs) * sizeof(float));
  }
};

}  // namespace dense
}  // namespace fastrl

#endif
