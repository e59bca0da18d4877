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
#if defined(__clang__) || __GNUC__ >= 12
#define FASTRL_SHUFFLES 1
#else
#define FASTRL_SHUFFLES 0
#endif

namespace fastrl {

#if FASTRL_VECTORS
#define FASTRL_VECTOR_TYPES(LANES)                              \
  typedef float Vector __attribute__((vector_size(4 * LANES))); \
  typedef int32_t Integers __attribute__((vector_size(4 * LANES)));
#else
#define FASTRL_VECTOR_TYPES(LANES)
#endif

// How products are cut up so that a tile's sums stay in registers.
struct Wide {  // 32 registers of 16 numbers
  static constexpr int kLanes = 16, kTileRows = 8;
  FASTRL_VECTOR_TYPES(16)
};
struct Narrow {  // 16 registers of 8
  static constexpr int kLanes = 8, kTileRows = 6;
  FASTRL_VECTOR_TYPES(8)
};
struct Plain {  // 32 of 4 on ARM, 16 on x86, or none at all
#if defined(__aarch64__)
  static constexpr int kLanes = 4, kTileRows = 8;
#else
  static constexpr int kLanes = 4, kTileRows = 4;
#endif
  FASTRL_VECTOR_TYPES(4)
};

#undef FASTRL_VECTOR_TYPES

#if FASTRL_VECTORS
// A left factor [rows, K] that lies in rows, and one that lies in columns.
struct InRows {
  const float* data;
  int64_t stride;

  FASTRL_INLINE float At(int64_t row, int64_t k) const { return data[row * stride + k]; }
  FASTRL_INLINE InRows From(int64_t row) const { return {data + row * stride, stride}; }
};
struct InColumns {
  const float* data;
  int64_t stride;

  FASTRL_INLINE float At(int64_t row, int64_t k) const { return data[row + k * stride]; }
  FASTRL_INLINE InColumns From(int64_t row) const { return {data + row, stride}; }
};

// What becomes of a product's sums: vector v of a panel goes to `at`.
template <typename Shape>
struct AddTo {
  FASTRL_INLINE void operator()(const typename Shape::Vector& sum, int, float* at) const {
    typename Shape::Vector total;
    std::memcpy(&total, at, sizeof(total));
    total += sum;
    std::memcpy(at, &total, sizeof(total));
  }
};
template <typename Shape>
struct Put {
  FASTRL_INLINE void operator()(const typename Shape::Vector& sum, int, float* at) const {
    std::memcpy(at, &sum, sizeof(sum));
  }
};
template <typename Shape, bool kHasRelu>
struct PutWithBias {
  const float* bias;  // of the panel

  FASTRL_INLINE void operator()(const typename Shape::Vector& sum, int v, float* at) const {
    typename Shape::Vector total;
    std::memcpy(&total, bias + v * Shape::kLanes, sizeof(total));
    total += sum;
    if (kHasRelu) total = total < 0.0f ? typename Shape::Vector{} : total;
    std::memcpy(at, &total, sizeof(total));
  }
};

// The sums a[R, K] w[K, V vectors], to c[R, V vectors].
template <typename Shape, int R, int V, typename Left, typename End>
FASTRL_INLINE void Tile(const Left& a, const float* w, int64_t w_stride, float* c, int64_t c_stride,
                        int64_t K, const End& end) {
  constexpr int kLanes = Shape::kLanes;
  using Vector = typename Shape::Vector;
  Vector sums[R][V] = {};
  for (int64_t k = 0; k < K; ++k) {
    Vector row[V];
    for (int v = 0; v < V; ++v) std::memcpy(&row[v], w + k * w_stride + v * kLanes, sizeof(Vector));
    for (int r = 0; r < R; ++r) {
      const float factor = a.At(r, k);
      for (int v = 0; v < V; ++v) sums[r][v] += factor * row[v];
    }
  }
  // Unrolled, or GCC would put the sums into memory first.
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) end(sums[r][v], v, c + r * c_stride + v * kLanes);
  }
}

template <typename Shape, int V, typename Left, typename End>
FASTRL_INLINE void Columns(const Left& a, const float* w, int64_t w_stride, float* c,
                           int64_t c_stride, int64_t rows, int64_t K, const End& end) {
  constexpr int R = Shape::kTileRows;
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    Tile<Shape, R, V>(a.From(r), w, w_stride, c + r * c_stride, c_stride, K, end);
  }
  for (; r + 4 <= rows; r += 4) {
    Tile<Shape, 4, V>(a.From(r), w, w_stride, c + r * c_stride, c_stride, K, end);
  }
  for (; r + 2 <= rows; r += 2) {
    Tile<Shape, 2, V>(a.From(r), w, w_stride, c + r * c_stride, c_stride, K, end);
  }
  for (; r < rows; ++r) {
    Tile<Shape, 1, V>(a.From(r), w, w_stride, c + r * c_stride, c_stride, K, end);
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
    const InRows left{a, a_stride};
    for (; n + kWidth <= N_; n += kWidth) {
      Columns<Shape, 2>(left, packed_.data() + n * K_, kWidth, c + n, c_stride, rows, K_,
                        AddTo<Shape>{});
    }
    for (; n + Shape::kLanes <= N_; n += Shape::kLanes) {
      Columns<Shape, 1>(left, w_ + n, stride_, c + n, c_stride, rows, K_, AddTo<Shape>{});
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

// HasVectors() tells whether this processor has vectors for which networks are worth it.
// FASTRL_FOR_THIS_PROCESSOR defines Run##NAME: NAME for the widest vectors that there are.
#if FASTRL_VECTORS && defined(__x86_64__)
inline bool HasNarrow() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
}
inline bool HasWide() {
  static const bool has = HasNarrow() && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has;
}
#define FASTRL_FOR_THIS_PROCESSOR(NAME, PARAMETERS, ARGUMENTS)                           \
  __attribute__((                                                                        \
      target("avx512f,avx512dq,avx512vl,avx2,fma"))) inline void NAME##Wide PARAMETERS { \
    NAME<Wide> ARGUMENTS;                                                                \
  }                                                                                      \
  __attribute__((target("avx2,fma"))) inline void NAME##Narrow PARAMETERS {              \
    NAME<Narrow> ARGUMENTS;                                                              \
  }                                                                                      \
  inline void Run##NAME PARAMETERS {                                                     \
    if (HasWide()) return NAME##Wide ARGUMENTS;                                          \
    if (HasNarrow()) return NAME##Narrow ARGUMENTS;                                      \
    NAME<Plain> ARGUMENTS;                                                               \
  }
inline bool HasVectors() { return HasNarrow(); }
#else
inline bool HasVectors() { return FASTRL_VECTORS != 0; }
#define FASTRL_FOR_THIS_PROCESSOR(NAME, PARAMETERS, ARGUMENTS) \
  inline void Run##NAME PARAMETERS { NAME<Plain> ARGUMENTS; }
#endif

}  // namespace fastrl
