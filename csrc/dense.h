// Multilayer perceptrons on the same rows, forwards and backwards, by a processor's vectors.
//
// A network is a trunk, hidden layers with one activation, and heads, linear layers that all take
// the trunk's features. Some rows at a time go through all layers, so that what is made of them
// stays in the first caches. In between rows are padded with zeros to whole vectors.
//
// Letters: B rows, D inputs, K and N inputs and outputs of a layer.

#pragma once

#include "activations.h"

#if FASTRL_DENSE

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "crew.h"
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

struct DenseNetwork {
  std::vector<DenseLayer> hidden, heads;
};

// Numbers [B, N] with any strides.
struct Grid {
  float* data;
  int64_t row_stride, column_stride;
};

struct DenseNetworks {
  int64_t num_rows, num_inputs;
  Activation activation;
  std::vector<DenseNetwork> networks;
};

namespace dense {

constexpr int64_t kRowsAtOnce = 64;

inline int64_t Padded(int64_t size) { return (size + 15) / 16 * 16; }

// This thread's memory for one purpose.
enum Purpose {
  kWeights,
  kGradients,
  kInputs,
  kOutputs,
  kFirst,
  kSecond,
  kRows,
  kActions,
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

inline int64_t WidestOf(const std::vector<DenseLayer>& layers) {
  int64_t widest = 0;
  for (const DenseLayer& l : layers) widest = std::max(widest, Padded(l.num_outputs));
  return widest;
}

// Numbers that a network's hidden layers give for all rows.
inline int64_t NumKept(const DenseNetwork& network, int64_t num_rows) {
  int64_t size = 0;
  for (const DenseLayer& l : network.hidden) size += num_rows * Padded(l.num_outputs);
  return size;
}

// Some of the rows of one network, and where its share of everything begins.
struct Piece {
  const DenseNetwork* network;
  const Grid* values;
  float* hidden;
  int64_t first_row, num_rows;
  std::vector<Sums> sums;  // of the hidden layers, then of the heads; on the way back alone
};

// Cuts the work. Pieces, and so all sums, do not depend on the number of threads.
inline std::vector<Piece> PiecesOf(const DenseNetworks& s, float* hidden,
                                   const std::vector<Grid>& values) {
  constexpr int64_t kFewestRows = 512, kMostPieces = 16;
  const int64_t per_piece = (s.num_rows + kMostPieces - 1) / kMostPieces;
  const int64_t count =
      std::max(kFewestRows, (per_piece + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce);
  std::vector<Piece> pieces;
  const Grid* grid = values.data();
  for (const DenseNetwork& network : s.networks) {
    for (int64_t row = 0; row < s.num_rows; row += count) {
      pieces.push_back({&network, grid, hidden, row, std::min(count, s.num_rows - row), {}});
    }
    grid += network.heads.size();
    if (hidden) hidden += NumKept(network, s.num_rows);
  }
  return pieces;
}

template <typename Shape>
FASTRL_INLINE void ForwardPiece(const DenseNetworks& s, const float* x, const Piece& piece) {
  const DenseNetwork& network = *piece.network;
  int64_t size = 0;
  for (const auto* layers : {&network.hidden, &network.heads}) {
    for (const DenseLayer& l : *layers) size += (l.num_inputs + 1) * Padded(l.num_outputs);
  }
  // Each weight, and behind it the bias with its padding.
  float* const weights = Memory(kWeights, size);
  float* to = weights;
  for (const auto* layers : {&network.hidden, &network.heads}) {
    for (const DenseLayer& l : *layers) {
      Pack<Shape>(l.weight, l.has_rows, l.num_inputs, l.num_outputs, to);
      to += l.num_inputs * Padded(l.num_outputs);
      Pack<Shape>(l.bias, true, 1, l.num_outputs, to);
      to += Padded(l.num_outputs);
    }
  }
  const int64_t widest = WidestOf(network.hidden);
  float* const passing[] = {Memory(kFirst, kRowsAtOnce * widest),
                            Memory(kSecond, kRowsAtOnce * widest)};
  float* const values = Memory(kOutputs, kRowsAtOnce * WidestOf(network.heads));
  const int64_t end = piece.first_row + piece.num_rows;
  for (int64_t row = piece.first_row; row < end; row += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, end - row);
    const float* weight = weights;
    InRows from{x + row * s.num_inputs, s.num_inputs};
    float* kept = piece.hidden;
    for (size_t i = 0; i < network.hidden.size(); ++i) {
      const int64_t stride = Padded(network.hidden[i].num_outputs);
      float* const y = kept ? kept + row * stride : passing[i % 2];
      weight = Multiply<Shape>(from, weight, network.hidden[i], y, rows);
      Activate<Shape>(s.activation, y, rows * stride);
      from = {y, stride};
      if (kept) kept += s.num_rows * stride;
    }
    for (size_t i = 0; i < network.heads.size(); ++i) {
      const DenseLayer& l = network.heads[i];
      weight = Multiply<Shape>(from, weight, l, values, rows);
      const Grid& grid = piece.values[i];
      for (int64_t n = 0; n < l.num_outputs; ++n) {
        float* const column = grid.data + row * grid.row_stride + n * grid.column_stride;
        for (int64_t r = 0; r < rows; ++r) {
          column[r * grid.row_stride] = values[r * Padded(l.num_outputs) + n];
        }
      }
    }
  }
}

// Fills the sums of a piece, which begin as zeros.
template <typename Shape>
FASTRL_INLINE void BackwardPiece(const DenseNetworks& s, const float* x, const Piece& piece) {
  const DenseNetwork& network = *piece.network;
  const auto num_hidden = static_cast<int64_t>(network.hidden.size());
  const int64_t D = s.num_inputs, x_stride = Padded(D);
  int64_t size = 0;
  for (const Sums& sums : piece.sums) {
    size += sums.layer->num_outputs * Padded(sums.layer->num_inputs);
  }
  std::vector<const float*> packed, kept;
  float* to = Memory(kWeights, size);
  const float* hidden = piece.hidden;
  for (const Sums& sums : piece.sums) {
    const DenseLayer& l = *sums.layer;
    packed.push_back(to);
    kept.push_back(hidden);  // of a head nothing is kept
    hidden += s.num_rows * Padded(l.num_outputs);
    if (packed.size() == 1) continue;  // nobody asks for the gradient of x
    Pack<Shape>(l.weight, !l.has_rows, l.num_outputs, l.num_inputs, to);
    to += l.num_outputs * Padded(l.num_inputs);
  }
  const int64_t widest = WidestOf(network.hidden);
  float* d = Memory(kFirst, kRowsAtOnce * widest);
  float* d_before = Memory(kSecond, kRowsAtOnce * widest);
  float* const d_values = Memory(kOutputs, kRowsAtOnce * WidestOf(network.heads));
  float* const inputs = Memory(kInputs, kRowsAtOnce * x_stride);
  const int64_t end = piece.first_row + piece.num_rows;
  for (int64_t row = piece.first_row; row < end; row += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, end - row);
    const int64_t stride = Padded(network.hidden.back().num_outputs);
    const float* y = kept[num_hidden - 1] + row * stride;
    std::fill(d, d + rows * stride, 0.0f);
    for (size_t i = 0; i < network.heads.size(); ++i) {
      const DenseLayer& l = network.heads[i];
      const int64_t N = l.num_outputs, value_stride = Padded(N);
      const Grid& grid = piece.values[i];
      std::fill(d_values, d_values + rows * value_stride, 0.0f);
      for (int64_t n = 0; n < N; ++n) {
        const float* column = grid.data + row * grid.row_stride + n * grid.column_stride;
        for (int64_t r = 0; r < rows; ++r) {
          d_values[r * value_stride + n] = column[r * grid.row_stride];
        }
      }
      const size_t at = network.hidden.size() + i;
      AddPacked<Shape>({d_values, value_stride}, packed[at], N, l.num_inputs, d, rows);
      piece.sums[at].template Add<Shape>(y, stride, d_values, rows);
    }
    for (int64_t i = num_hidden - 1; i >= 0; --i) {
      const DenseLayer& l = network.hidden[i];
      const int64_t N = l.num_outputs;
      TakeBack<Shape>(s.activation, y, d, rows * Padded(N));
      if (i == 0) break;
      const int64_t before_stride = Padded(l.num_inputs);
      y = kept[i - 1] + row * before_stride;
      piece.sums[i].template Add<Shape>(y, before_stride, d, rows);
      std::fill(d_before, d_before + rows * before_stride, 0.0f);
      AddPacked<Shape>({d, Padded(N)}, packed[i], N, l.num_inputs, d_before, rows);
      std::swap(d, d_before);
    }
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(inputs + r * x_stride, x + (row + r) * D, static_cast<size_t>(D) * sizeof(float));
      std::fill(inputs + r * x_stride + D, inputs + (r + 1) * x_stride, 0.0f);
    }
    piece.sums[0].template Add<Shape>(inputs, x_stride, d, rows);
  }
}

FASTRL_FOR_THIS_PROCESSOR(ForwardPiece,
                          (const DenseNetworks& s, const float* x, const Piece& piece),
                          (s, x, piece))
FASTRL_FOR_THIS_PROCESSOR(BackwardPiece,
                          (const DenseNetworks& s, const float* x, const Piece& piece),
                          (s, x, piece))

}  // namespace dense

// Takes rows x [B, D] through all networks to the values of all heads. What hidden layers give,
// [B, Padded(N)] each, one after the other, is kept unless `hidden` is null.
inline void DenseForward(const DenseNetworks& s, const float* x, float* hidden,
                         const std::vector<Grid>& values, int64_t num_threads) {
  const std::vector<dense::Piece> pieces = dense::PiecesOf(s, hidden, values);
  Crew::Share(static_cast<int64_t>(pieces.size()), num_threads,
              [&](int64_t index) { dense::RunForwardPiece(s, x, pieces[index]); });
}

// From the gradients of all heads' values to those of all weights and biases.
inline void DenseBackward(const DenseNetworks& s, const float* x, float* hidden,
                          const std::vector<Grid>& d_values, int64_t num_threads) {
  std::vector<dense::Piece> pieces = dense::PiecesOf(s, hidden, d_values);
  int64_t size = 0;
  for (dense::Piece& piece : pieces) {
    for (const auto* layers : {&piece.network->hidden, &piece.network->heads}) {
      for (const DenseLayer& l : *layers) {
        piece.sums.push_back({&l, nullptr, nullptr});
        size += piece.sums.back().Size();
      }
    }
  }
  float* at = dense::Memory(dense::kGradients, size);
  std::fill(at, at + size, 0.0f);
  for (dense::Piece& piece : pieces) {
    for (dense::Sums& sums : piece.sums) {
      sums.weight = at;
      at += sums.Size();
      sums.bias = at - dense::Padded(sums.layer->num_outputs);
    }
  }
  Crew::Share(static_cast<int64_t>(pieces.size()), num_threads,
              [&](int64_t index) { dense::RunBackwardPiece(s, x, pieces[index]); });
  dense::Piece* total = nullptr;
  for (dense::Piece& piece : pieces) {
    if (piece.first_row == 0) {
      total = &piece;
      continue;
    }
    for (size_t i = 0; i < piece.sums.size(); ++i) total->sums[i].AddUp(piece.sums[i]);
  }
  for (const dense::Piece& piece : pieces) {
    if (piece.first_row > 0) continue;
    for (const dense::Sums& sums : piece.sums) sums.Store();
  }
}

}  // namespace fastrl

#endif
