// Products of small matrices, c += a w, by the vectors that a processor has. Functions here are
// inlined into ones that are compiled for a certain processor.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__aarch64__))
#define FASTRL_VECTORS 1
#define FASTRL_INLINE inline __attribute__((always_inline))
#else
#define FASTRL_VECTORS 0
#define FASTRL_INLINE inline
#endif

namespace fastrl {

// How products are cut up so that a tile's sums stay in registers.
struct Wide {  // 32 registers of 16 numbers
  static constexpr int kLanes = 16, kTileRows = 8;
};
struct Narrow {  // 16 registers of 8
  static constexpr int kLanes = 8, kTileRows = 4;
};
struct Plain {  // 16 of 4, or none at all
  static constexpr int kLanes = 4, kTileRows = 4;
};

#if FASTRL_VECTORS
// c[R, V vectors] += a[R, K] w[K, V vectors]
template <typename Shape, int R, int V>
FASTRL_INLINE void Tile(const float* a, int64_t a_stride, const float* w, int64_t w_stride,
                        float* c, int64_t c_stride, int64_t K) {
  constexpr int kLanes = Shape::kLanes;
  typedef float Vector __attribute__((vector_size(4 * kLanes)));
  Vector sums[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      std::memcpy(&sums[r][v], c + r * c_stride + v * kLanes, sizeof(Vector));
    }
  }
  for (int64_t k = 0; k < K; ++k) {
    Vector row[V];
    for (int v = 0; v < V; ++v) std::memcpy(&row[v], w + k * w_stride + v * kLanes, sizeof(Vector));
    for (int r = 0; r < R; ++r) {
      const float factor = a[r * a_stride + k];
      for (int v = 0; v < V; ++v) sums[r][v] += factor * row[v];
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      std::memcpy(c + r * c_stride + v * kLanes, &sums[r][v], sizeof(Vector));
    }
  }
}

template <typename Shape, int V>
FASTRL_INLINE void Columns(const float* a, int64_t a_stride, const float* w, int64_t w_stride,
                           float* c, int64_t c_stride, int64_t rows, int64_t K) {
  constexpr int R = Shape::kTileRows;
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    Tile<Shape, R, V>(a + r * a_stride, a_stride, w, w_stride, c + r * c_stride, c_stride, K);
  }
  for (; r + 4 <= rows; r += 4) {
    Tile<Shape, 4, V>(a + r * a_stride, a_stride, w, w_stride, c + r * c_stride, c_stride, K);
  }
  for (; r + 2 <= rows; r += 2) {
    Tile<Shape, 2, V>(a + r * a_stride, a_stride, w, w_stride, c + r * c_stride, c_stride, K);
  }
  for (; r < rows; ++r) {
    Tile<Shape, 1, V>(a + r * a_stride, a_stride, w, w_stride, c + r * c_stride, c_stride, K);
  }
}
#endif

// A matrix [K, N] cut into panels of columns as wide as a tile, each in one piece: rows of a large
// matrix that lie a power of two apart would push one another out of the cache.
template <typename Shape>
class Panels {
 public:
  FASTRL_INLINE Panels(const float* w, int64_t stride, int64_t K, int64_t N)
      : w_(w), stride_(stride), K_(K), N_(N) {
    const int64_t num_panels = FASTRL_VECTORS ? N / kWidth : 0;
    packed_.resize(static_cast<size_t>(num_panels * K * kWidth));
    float* to = packed_.data();
    for (int64_t panel = 0; panel < num_panels; ++panel) {
      for (int64_t k = 0; k < K; ++k, to += kWidth) {
        std::memcpy(to, w + k * stride + panel * kWidth, kWidth * sizeof(float));
      }
    }
  }

  // c[rows, N] += a[rows, K] times the matrix
  FASTRL_INLINE void AddProduct(const float* a, int64_t a_stride, float* c, int64_t c_stride,
                                int64_t rows) const {
    int64_t n = 0;
#if FASTRL_VECTORS
    for (; n + kWidth <= N_; n += kWidth) {
      Columns<Shape, 2>(a, a_stride, packed_.data() + n * K_, kWidth, c + n, c_stride, rows, K_);
    }
    for (; n + Shape::kLanes <= N_; n += Shape::kLanes) {
      Columns<Shape, 1>(a, a_stride, w_ + n, stride_, c + n, c_stride, rows, K_);
    }
#endif
    for (int64_t r = 0; n < N_ && r < rows; ++r) {
      for (int64_t k = 0; k < K_; ++k) {
        const float factor = a[r * a_stride + k];
        for (int64_t j = n; j < N_; ++j) c[r * c_stride + j] += factor * w_[k * stride_ + j];
      }
    }
  }

 private:
  static constexpr int64_t kWidth = 2 * Shape::kLanes;

  const float* w_;
  int64_t stride_;
  int64_t K_;
  int64_t N_;
  std::vector<float> packed_;
};

}  // namespace fastrl
