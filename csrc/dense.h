// Multilayer perceptrons on the same rows, forwards and backwards, by a processor's vectors.
//
// A network is a trunk, hidden layers with one activation, and heads, linear layers that all take
// the trunk's features. Some rows at a time go through all layers, so that what is made of them
// stays in the first caches. In between rows are padded with zeros to whole vectors.
//
// Letters: B rows, D inputs, K and N inputs and outputs of a layer.

#pragma once

#include "dense_pieces.h"

#if FASTRL_DENSE

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace fastrl {

namespace dense {

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
      const int64_t stride = StrideOf(network.hidden[i].num_outputs);
      float* const y = kept ? kept + row * stride : passing[i % 2];
      const DenseLayer& l = network.hidden[i];
      if (s.activation == Activation::kRelu) {
        weight = Multiply<Shape, true>(from, weight, l, y, rows);
      } else {
        weight = Multiply<Shape, false>(from, weight, l, y, rows);
        for (int64_t r = 0; r < rows; ++r) {
          Activate<Shape>(s.activation, y + r * stride, Padded(l.num_outputs));
        }
      }
      from = {y, stride};
      if (kept) kept += s.num_rows * stride;
    }
    for (size_t i = 0; i < network.heads.size(); ++i) {
      const DenseLayer& l = network.heads[i];
      weight = Multiply<Shape, false>(from, weight, l, values, rows);
      const Grid& grid = piece.values[i];
      for (int64_t n = 0; n < l.num_outputs; ++n) {
        float* const column = grid.data + row * grid.row_stride + n * grid.column_stride;
        for (int64_t r = 0; r < rows; ++r) {
          column[r * grid.row_stride] = values[r * StrideOf(l.num_outputs) + n];
        }
      }
    }
  }
}

// Packs the transposed weights that gradients go back through. Returns those of each layer, hidden
// ones first.
template <typename Shape>
FASTRL_INLINE std::vector<const float*> PackBack(const Piece& piece) {
  int64_t size = 0;
  for (const auto* layers : {&piece.network->hidden, &piece.network->heads}) {
    for (const DenseLayer& l : *layers) size += l.num_outputs * Padded(l.num_inputs);
  }
  float* to = Memory(kWeights, size);
  std::vector<const float*> packed;
  for (const auto* layers : {&piece.network->hidden, &piece.network->heads}) {
    for (const DenseLayer& l : *layers) {
      packed.push_back(to);
      if (packed.size() == 1 && !piece.d_x) continue;
      Pack<Shape>(l.weight, !l.has_rows, l.num_outputs, l.num_inputs, to);
      to += l.num_outputs * Padded(l.num_inputs);
    }
  }
  return packed;
}

// Fills the sums of a piece, and its rows of d_x.
template <typename Shape>
FASTRL_INLINE void BackwardPiece(const DenseNetworks& s, const float* x, const Piece& piece) {
  const DenseNetwork& network = *piece.network;
  const auto num_hidden = static_cast<int64_t>(network.hidden.size());
  const int64_t D = s.num_inputs, x_stride = StrideOf(D);
  const bool has_sums = !piece.sums.empty();
  const auto put = [](int64_t) { return Put<Shape>{}; };
  const auto add = [](int64_t) { return AddTo<Shape>{}; };
  for (const Sums& sums : piece.sums) sums.Clear();
  const std::vector<const float*> packed = PackBack<Shape>(piece);
  std::vector<const float*> kept;
  const float* hidden = piece.hidden;
  for (const DenseLayer& l : network.hidden) {
    kept.push_back(hidden);
    hidden += s.num_rows * StrideOf(l.num_outputs);
  }
  const int64_t widest = WidestOf(network.hidden);
  float* d = Memory(kFirst, kRowsAtOnce * widest);
  float* d_before = Memory(kSecond, kRowsAtOnce * widest);
  float* const d_values = Memory(kOutputs, kRowsAtOnce * WidestOf(network.heads));
  float* const inputs = Memory(kInputs, kRowsAtOnce * x_stride);
  const int64_t end = piece.first_row + piece.num_rows;
  for (int64_t row = piece.first_row; row < end; row += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, end - row);
    const int64_t stride = StrideOf(network.hidden.back().num_outputs);
    const float* y = kept[num_hidden - 1] + row * stride;
    for (size_t i = 0; i < network.heads.size(); ++i) {
      const DenseLayer& l = network.heads[i];
      const int64_t N = l.num_outputs, value_stride = StrideOf(N);
      const Grid& grid = piece.values[i];
      std::fill(d_values, d_values + rows * value_stride, 0.0f);
      for (int64_t n = 0; n < N; ++n) {
        const float* column = grid.data + row * grid.row_stride + n * grid.column_stride;
        for (int64_t r = 0; r < rows; ++r) {
          d_values[r * value_stride + n] = column[r * grid.row_stride];
        }
      }
      const size_t at = network.hidden.size() + i;
      const InRows left{d_values, value_stride};
      if (i == 0) {
        MultiplyPacked<Shape>(left, packed[at], N, l.num_inputs, d, rows, put);
      } else {
        MultiplyPacked<Shape>(left, packed[at], N, l.num_inputs, d, rows, add);
      }
      if (has_sums) piece.sums[at].template Add<Shape>(y, d_values, rows);
    }
    for (int64_t i = num_hidden - 1; i >= 0; --i) {
      const DenseLayer& l = network.hidden[i];
      const int64_t N = l.num_outputs, before_stride = StrideOf(l.num_inputs);
      for (int64_t r = 0; r < rows; ++r) {
        TakeBack<Shape>(s.activation, y + r * StrideOf(N), d + r * StrideOf(N), Padded(N));
      }
      if (i == 0) break;
      y = kept[i - 1] + row * before_stride;
      if (has_sums) piece.sums[i].template Add<Shape>(y, d, rows);
      MultiplyPacked<Shape>({d, StrideOf(N)}, packed[i], N, l.num_inputs, d_before, rows, put);
      std::swap(d, d_before);
    }
    const int64_t N = network.hidden[0].num_outputs;
    if (piece.d_x) {
      MultiplyPacked<Shape>({d, StrideOf(N)}, packed[0], N, D, piece.d_x + row * x_stride, rows,
                            put);
    }
    if (!has_sums) continue;
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(inputs + r * x_stride, x + (row + r) * D, static_cast<size_t>(D) * sizeof(float));
      std::fill(inputs + r * x_stride + D, inputs + (r + 1) * x_stride, 0.0f);
    }
    piece.sums[0].template Add<Shape>(inputs, d, rows);
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
// [B, StrideOf(N)] each, one after the other, is kept unless `hidden` is null.
inline void DenseForward(const DenseNetworks& s, const float* x, float* hidden,
                         const std::vector<Grid>& values, int64_t num_threads) {
  const std::vector<dense::Piece> pieces = dense::PiecesOf(s, hidden, values, num_threads);
  ThreadTeam::Share(static_cast<int64_t>(pieces.size()), num_threads,
                    [&](int64_t index) { dense::RunForwardPiece(s, x, pieces[index]); });
}

// From the gradients of all heads' values to those of all weights and biases, unless these are not
// wanted, and to that of x [B, D], summed over the networks, unless d_x is null.
inline void DenseBackward(const DenseNetworks& s, const float* x, float* hidden,
                          const std::vector<Grid>& d_values, bool has_d_weights, float* d_x,
                          int64_t num_threads) {
  std::vector<dense::Piece> pieces =
      dense::PiecesOf(s, hidden, d_values, has_d_weights ? 0 : num_threads);
  if (has_d_weights) {
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
    for (dense::Piece& piece : pieces) {
      for (dense::Sums& sums : piece.sums) {
        sums.weight = at;
        at += sums.Size();
        sums.bias = at - dense::Padded(sums.layer->num_outputs);
      }
    }
  }
  const int64_t B = s.num_rows, D = s.num_inputs, stride = dense::StrideOf(D);
  const auto E = static_cast<int64_t>(s.networks.size());
  float* const apart = d_x ? dense::Memory(dense::kInputGradients, E * B * stride) : nullptr;
  for (dense::Piece& piece : pieces) {
    if (d_x) piece.d_x = apart + (piece.network - s.networks.data()) * B * stride;
  }
  ThreadTeam::Share(static_cast<int64_t>(pieces.size()), num_threads,
                    [&](int64_t index) { dense::RunBackwardPiece(s, x, pieces[index]); });
  if (has_d_weights) dense::StoreSums(pieces, num_threads);
  for (int64_t b = 0; d_x && b < B; ++b) {
    for (int64_t i = 0; i < D; ++i) {
      float sum = apart[b * stride + i];
      for (int64_t e = 1; e < E; ++e) sum += apart[(e * B + b) * stride + i];
      d_x[b * D + i] = sum;
    }
  }
}

}  // namespace fastrl

#endif
