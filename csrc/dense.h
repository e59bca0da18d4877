// Multilayer perceptrons on the same rows, forwards and backwards, by a processor's vectors.
//
// A network is a trunk, hidden layers with one activation, and heads, linear layers that all take
// the trunk's features. Some rows at a time go through all layers, so that what is made of them
// stays in the first caches. In between rows are padded with zeros to whole vectors.
//
// Letters: B rows, D inputs, K and N inputs and outputs of a layer.

#pragma once

#include "dense_layer.h"

#if FASTRL_DENSE

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "activations.h"
#include "crew.h"

namespace fastrl {

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

inline int64_t WidestOf(const std::vector<DenseLayer>& layers) {
  int64_t widest = 0;
  for (const DenseLayer& l : layers) widest = std::max(widest, StrideOf(l.num_outputs));
  return widest;
}

// Numbers that a network's hidden layers give for all rows.
inline int64_t NumKept(const DenseNetwork& network, int64_t num_rows) {
  int64_t size = 0;
  for (const DenseLayer& l : network.hidden) size += num_rows * StrideOf(l.num_outputs);
  return size;
}

inline int64_t NumWeights(const DenseNetwork& network) {
  int64_t size = 0;
  for (const auto* layers : {&network.hidden, &network.heads}) {
    for (const DenseLayer& l : *layers) size += l.num_inputs * l.num_outputs;
  }
  return size;
}

// Some of the rows of one network, and where its share of everything begins.
struct Piece {
  const DenseNetwork* network;
  const Grid* values;
  float* hidden;
  int64_t first_row, num_rows;
  // On the way back alone, and only what is asked for:
  std::vector<Sums> sums;  // of the hidden layers, then of the heads
  float* d_x;              // of all rows
};

// Cuts the work. Pieces, and so all sums, do not depend on the number of threads.
inline std::vector<Piece> PiecesOf(const DenseNetworks& s, float* hidden,
                                   const std::vector<Grid>& values) {
  constexpr int64_t kMostPieces = 16, kMostNumbers = 1 << 22, kLarge = 1 << 15;
  int64_t num_weights = 1, largest = 0;  // each piece has a gradient of its own
  for (const DenseNetwork& network : s.networks) {
    num_weights += NumWeights(network);
    largest = std::max(largest, NumWeights(network));
  }
  const int64_t fewest_rows = largest < kLarge ? 512 : 128;  // that are worth a thread
  const int64_t num_pieces =
      std::max<int64_t>(2, std::min(kMostPieces, kMostNumbers / num_weights));
  const int64_t per_piece = (s.num_rows + num_pieces - 1) / num_pieces;
  const int64_t count =
      std::max(fewest_rows, (per_piece + kRowsAtOnce - 1) / kRowsAtOnce * kRowsAtOnce);
  std::vector<Piece> pieces;
  const Grid* grid = values.data();
  for (const DenseNetwork& network : s.networks) {
    for (int64_t row = 0; row < s.num_rows; row += count) {
      pieces.push_back(
          {&network, grid, hidden, row, std::min(count, s.num_rows - row), {}, nullptr});
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
      const int64_t stride = StrideOf(network.hidden[i].num_outputs);
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
    std::fill(d, d + rows * stride, 0.0f);
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
      AddPacked<Shape>({d_values, value_stride}, packed[at], N, l.num_inputs, d, rows);
      if (has_sums) piece.sums[at].template Add<Shape>(y, d_values, rows);
    }
    for (int64_t i = num_hidden - 1; i >= 0; --i) {
      const DenseLayer& l = network.hidden[i];
      const int64_t N = l.num_outputs, before_stride = StrideOf(l.num_inputs);
      TakeBack<Shape>(s.activation, y, d, rows * StrideOf(N));
      if (i == 0) break;
      y = kept[i - 1] + row * before_stride;
      if (has_sums) piece.sums[i].template Add<Shape>(y, d, rows);
      std::fill(d_before, d_before + rows * before_stride, 0.0f);
      AddPacked<Shape>({d, StrideOf(N)}, packed[i], N, l.num_inputs, d_before, rows);
      std::swap(d, d_before);
    }
    const int64_t N = network.hidden[0].num_outputs;
    if (piece.d_x) {
      float* const d_x = piece.d_x + row * x_stride;
      std::fill(d_x, d_x + rows * x_stride, 0.0f);
      AddPacked<Shape>({d, StrideOf(N)}, packed[0], N, D, d_x, rows);
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

// Lines of a layer's gradient, to be added up over the pieces of its network and stored.
struct Lines {
  const Piece* pieces;  // the first of them
  int64_t num_pieces, layer, first, count;

  void Store() const {
    const Sums& total = pieces[0].sums[layer];
    for (int64_t i = 1; i < num_pieces; ++i) total.AddUp(pieces[i].sums[layer], first, count);
    total.Store(first, count);
  }
};

inline void StoreSums(const std::vector<Piece>& pieces, int64_t num_threads) {
  constexpr int64_t kFewestLines = 64, kFewestNumbers = 1 << 16;
  std::vector<Lines> parts;
  int64_t size = 0;
  for (size_t first = 0, next; first < pieces.size(); first = next) {
    for (next = first + 1; next < pieces.size() && pieces[next].first_row > 0;) ++next;
    const std::vector<Sums>& sums = pieces[first].sums;
    for (size_t layer = 0; layer < sums.size(); ++layer) {
      const int64_t num_lines = sums[layer].NumLines();
      size += sums[layer].Size();
      for (int64_t line = 0; line < num_lines; line += kFewestLines) {
        parts.push_back({&pieces[first], static_cast<int64_t>(next - first),
                         static_cast<int64_t>(layer), line,
                         std::min(kFewestLines, num_lines - line)});
      }
    }
  }
  Crew::Share(static_cast<int64_t>(parts.size()), size < kFewestNumbers ? 1 : num_threads,
              [&](int64_t index) { parts[index].Store(); });
}

}  // namespace dense

// Takes rows x [B, D] through all networks to the values of all heads. What hidden layers give,
// [B, StrideOf(N)] each, one after the other, is kept unless `hidden` is null.
inline void DenseForward(const DenseNetworks& s, const float* x, float* hidden,
                         const std::vector<Grid>& values, int64_t num_threads) {
  const std::vector<dense::Piece> pieces = dense::PiecesOf(s, hidden, values);
  Crew::Share(static_cast<int64_t>(pieces.size()), num_threads,
              [&](int64_t index) { dense::RunForwardPiece(s, x, pieces[index]); });
}

// From the gradients of all heads' values to those of all weights and biases, unless these are not
// wanted, and to that of x [B, D], summed over the networks, unless d_x is null.
inline void DenseBackward(const DenseNetworks& s, const float* x, float* hidden,
                          const std::vector<Grid>& d_values, bool has_d_weights, float* d_x,
                          int64_t num_threads) {
  std::vector<dense::Piece> pieces = dense::PiecesOf(s, hidden, d_values);
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
  Crew::Share(static_cast<int64_t>(pieces.size()), num_threads,
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
