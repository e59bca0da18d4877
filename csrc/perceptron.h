// Multilayer perceptrons with ReLU side by side, forwards and backwards, in matrix tiles.
//
// Letters: E networks, B rows, D inputs, O outputs, K and N inputs and outputs of a layer, P
// pieces.

#pragma once

#include "tile_products.h"

#if FASTRL_TILES

#include <algorithm>
#include <cstdint>
#include <vector>

#include "crew.h"
#include "narrow.h"

namespace fastrl {

// A batch [E, rows, columns] of matrices; `first` is the first one.
struct Stack {
  Matrix first;
  int64_t stride;  // between matrices

  Matrix operator[](int64_t index) const {
    Matrix matrix = first;
    matrix.data += index * stride;
    return matrix;
  }
};

// E networks of the same sizes. What hidden layers give, and the gradients of that, lies in one
// block of memory: [E, B, N] of the first layer, then of the second and so on.
struct Perceptrons {
  int64_t num_networks, num_rows;
  std::vector<Stack> weights;  // [E, K, N] of each layer
  int64_t num_pieces, num_threads;

  int64_t num_layers() const { return static_cast<int64_t>(weights.size()); }
  int64_t num_inputs(int64_t layer) const { return weights[layer].first.num_rows; }
  int64_t num_outputs(int64_t layer) const { return weights[layer].first.num_columns; }

  bool IsNarrow(int64_t layer) const {
    return layer == num_layers() - 1 && tiles::IsNarrow(num_outputs(layer));
  }

  // Where in that block the rows of a hidden layer's network begin.
  int64_t HiddenAt(int64_t layer, int64_t network) const {
    int64_t at = network * num_rows * num_outputs(layer);
    for (int64_t l = 0; l < layer; ++l) at += num_networks * num_rows * num_outputs(l);
    return at;
  }
};

namespace tiles {

constexpr int64_t kLinesAtOnce = 64;  // rows that go through all layers together

// Threads are divided among networks: returns how many lines of a network each takes.
inline int64_t LinesOfThread(const Perceptrons& p, int64_t num_lines) {
  const int64_t num_parts = (p.num_threads + p.num_networks - 1) / p.num_networks;
  return std::max(kLinesAtOnce, RoundUp((num_lines + num_parts - 1) / num_parts));
}

// This thread's memory for factors that are cut, the same in all operations: it stays in the cache.
inline Bfloat16* LeftMemory(int64_t count) {
  thread_local Scratch<Bfloat16> scratch;
  return scratch.OfSize(count);
}

inline Bfloat16* RightMemory(int64_t count) {
  thread_local Scratch<Bfloat16> scratch;
  return scratch.OfSize(count);
}

// This thread's memory for what a hidden layer gives for the rows under way.
inline float* PassingMemory(const Perceptrons& p) {
  thread_local Scratch<float> scratch;
  int64_t widest = 0;
  for (int64_t layer = 0; layer + 1 < p.num_layers(); ++layer) {
    widest = std::max(widest, p.num_outputs(layer));
  }
  return scratch.OfSize(kLinesAtOnce * widest);
}

inline Matrix RowMajor(const float* data, int64_t num_rows, int64_t num_columns) {
  return {data, num_rows, num_columns, num_columns, 1};
}

// Calls work(network, weights as right factors, first row, number of rows) for all rows of all
// networks. Each thread packs the weights that it needs: that is faster than having them from
// another core. Only layers from `first_layer` on are packed; transposed for the way back.
template <int P, typename Work>
void ShareRows(const Perceptrons& p, int64_t first_layer, bool are_transposed, const Work& work) {
  const int64_t per_part = LinesOfThread(p, p.num_rows);
  const int64_t num_parts = (p.num_rows + per_part - 1) / per_part;
  Crew::Share(p.num_networks * num_parts, p.num_threads, [&](int64_t item) {
    const int64_t network = item % p.num_networks;
    const int64_t begin = item / p.num_networks * per_part;
    const int64_t end = std::min(begin + per_part, p.num_rows);
    std::vector<int64_t> offsets = {0};
    for (int64_t layer = 0; layer < p.num_layers(); ++layer) {
      const bool is_packed = layer >= first_layer && !p.IsNarrow(layer);
      const int64_t size = PackedSize(p.num_inputs(layer), p.num_outputs(layer), P);
      offsets.push_back(offsets.back() + (is_packed ? size : 0));
    }
    Bfloat16* const memory = RightMemory(offsets.back());
    std::vector<const Bfloat16*> packed;
    for (int64_t layer = 0; layer < p.num_layers(); ++layer) {
      packed.push_back(memory + offsets[layer]);
      if (layer < first_layer || p.IsNarrow(layer)) continue;
      const Matrix weight = p.weights[layer][network];
      PackRight<P>(are_transposed ? weight.T() : weight, memory + offsets[layer]);
    }
    for (int64_t row = begin; row < end; row += kLinesAtOnce) {
      work(network, packed, row, std::min(kLinesAtOnce, end - row));
    }
  });
}

template <int P>
void Forward(const Perceptrons& p, const Matrix& inputs, const std::vector<const float*>& biases,
             float* hidden, float* outputs) {
  const auto take = [&](int64_t network, const auto& weights, int64_t row, int64_t count) {
    float* const passing = hidden ? nullptr : PassingMemory(p);
    Matrix x = inputs.Rows(row, count);
    for (int64_t layer = 0; layer < p.num_layers(); ++layer) {
      const bool is_last = layer == p.num_layers() - 1;
      const int64_t K = p.num_inputs(layer), N = p.num_outputs(layer);
      float* const to = is_last  ? outputs + (network * p.num_rows + row) * N
                        : hidden ? hidden + p.HiddenAt(layer, network) + row * N
                                 : passing;
      const float* bias = biases[layer] + network * N;
      if (p.IsNarrow(layer)) return MultiplyNarrow(x, p.weights[layer][network], bias, to);
      Bfloat16* const left = LeftMemory(PackedSize(count, K, P));
      PackLeft<P>(x, left);  // x may lie in `passing`, which the product overwrites
      const Target target{to, N, bias, !is_last, nullptr};
      Multiply<P>(left, weights[layer], count, N, K, target);
      x = RowMajor(target.data, count, N);
    }
  };
  ShareRows<P>(p, 0, false, take);
}

template <int P>
void Backward(const Perceptrons& p, const float* d_outputs, const float* hidden, float* d_hidden,
              float* d_inputs) {
  const int64_t first_layer = d_inputs ? 0 : 1;
  const auto take = [&](int64_t network, const auto& weights, int64_t row, int64_t count) {
    float* const passing = d_hidden ? nullptr : PassingMemory(p);
    const int64_t last = p.num_layers() - 1, O = p.num_outputs(last);
    Matrix d_y = RowMajor(d_outputs + (network * p.num_rows + row) * O, count, O);
    for (int64_t layer = last; layer >= first_layer; --layer) {
      const int64_t K = p.num_inputs(layer), N = p.num_outputs(layer);
      const int64_t own = layer ? p.HiddenAt(layer - 1, network) : network * p.num_rows * K;
      const int64_t at = own + row * K;
      float* const to = !layer ? d_inputs + at : d_hidden ? d_hidden + at : passing;
      const Target target{to, K, nullptr, false, layer ? hidden + at : nullptr};
      if (p.IsNarrow(layer)) {
        MultiplyNarrowBack(d_y, p.weights[layer][network], target.outputs, target.data);
      } else {
        Bfloat16* const left = LeftMemory(PackedSize(count, N, P));
        PackLeft<P>(d_y, left);  // as above
        Multiply<P>(left, weights[layer], count, K, N, target);
      }
      d_y = RowMajor(target.data, count, K);
    }
  };
  ShareRows<P>(p, first_layer, true, take);
}

template <int P>
void Gradients(const Perceptrons& p, const Matrix& inputs, const float* d_outputs,
               const float* hidden, const float* d_hidden, const std::vector<float*>& d_weights,
               const std::vector<float*>& d_biases) {
  struct Item {
    int64_t layer, network, line, num_lines;
  };
  // A weight's gradient has the order of the weight in memory; its lines are what is contiguous.
  std::vector<Item> items;
  for (int64_t layer = 0; layer < p.num_layers(); ++layer) {
    const Matrix& weight = p.weights[layer].first;
    const int64_t num_lines = p.IsNarrow(layer)           ? 1
                              : weight.column_stride == 1 ? weight.num_rows
                                                          : weight.num_columns;
    const int64_t per_part = LinesOfThread(p, num_lines);
    for (int64_t line = 0; line < num_lines; line += per_part) {
      for (int64_t network = 0; network < p.num_networks; ++network) {
        items.push_back({layer, network, line, std::min(per_part, num_lines - line)});
      }
    }
  }
  Crew::Share(static_cast<int64_t>(items.size()), p.num_threads, [&](int64_t index) {
    const auto [layer, network, line, count] = items[index];
    const int64_t K = p.num_inputs(layer), N = p.num_outputs(layer), B = p.num_rows;
    const bool is_last = layer == p.num_layers() - 1;
    const Matrix x = layer ? RowMajor(hidden + p.HiddenAt(layer - 1, network), B, K) : inputs;
    const Matrix d_y = RowMajor(
        is_last ? d_outputs + network * B * N : d_hidden + p.HiddenAt(layer, network), B, N);
    float* const d_weight = d_weights[layer] + network * K * N;
    if (line == 0) SumRows(d_y, d_biases[layer] + network * N);
    if (p.IsNarrow(layer)) return MultiplyNarrowRows(x, d_y, p.weights[layer].first, d_weight);
    const bool has_rows = p.weights[layer].first.column_stride == 1;
    const Matrix lines = (has_rows ? x : d_y).T(), others = has_rows ? d_y : x;
    Bfloat16* const right = RightMemory(PackedSize(others.num_columns, B, P));
    PackRight<P>(others, right);
    const int64_t stride = others.num_columns;
    for (int64_t first = line; first < line + count; first += kLinesAtOnce) {
      const int64_t num_lines = std::min(kLinesAtOnce, line + count - first);
      Bfloat16* const left = LeftMemory(PackedSize(num_lines, B, P));
      PackLeft<P>(lines.Rows(first, num_lines), left);
      const Target target{d_weight + first * stride, stride, nullptr, false, nullptr};
      Multiply<P>(left, right, num_lines, stride, B, target);
    }
  });
}

}  // namespace tiles

#define FASTRL_WITH_PIECES(NAME, ...)                           \
  if (p.num_pieces == 1) return tiles::NAME<1>(p, __VA_ARGS__); \
  if (p.num_pieces == 2) return tiles::NAME<2>(p, __VA_ARGS__); \
  tiles::NAME<3>(p, __VA_ARGS__)

// Takes inputs [B, D] through all networks: hidden layers' outputs, which are kept unless `hidden`
// is null, and outputs [E, B, O]. Biases are [E, N].
inline void RunForward(const Perceptrons& p, const Matrix& inputs,
                       const std::vector<const float*>& biases, float* hidden, float* outputs) {
  FASTRL_WITH_PIECES(Forward, inputs, biases, hidden, outputs);
}

// Takes gradients of outputs [E, B, O] back: to what hidden layers sum up before their ReLU, which
// are kept unless `d_hidden` is null, and to the inputs, [E, B, D], unless that is null.
inline void RunBackward(const Perceptrons& p, const float* d_outputs, const float* hidden,
                        float* d_hidden, float* d_inputs) {
  FASTRL_WITH_PIECES(Backward, d_outputs, hidden, d_hidden, d_inputs);
}

// The gradients of weights, in the order in memory that the weights have, and of biases [E, N].
inline void RunGradients(const Perceptrons& p, const Matrix& inputs, const float* d_outputs,
                         const float* hidden, const float* d_hidden,
                         const std::vector<float*>& d_weights,
                         const std::vector<float*>& d_biases) {
  FASTRL_WITH_PIECES(Gradients, inputs, d_outputs, hidden, d_hidden, d_weights, d_biases);
}

#undef FASTRL_WITH_PIECES

}  // namespace fastrl

#endif
