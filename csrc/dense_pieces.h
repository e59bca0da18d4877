// Networks of dense layers, how their rows are cut into pieces of work, and how gradients are added
// up over the pieces.

#pragma once

#include "dense_layer.h"

#if FASTRL_DENSE

#include <algorithm>
#include <cstdint>
#include <vector>

#include "thread_team.h"

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

// Cuts the work. Pieces with sums do not depend on the number of threads, so neither do sums.
// Others may: for `num_threads` above 0 a large network is cut no finer than they can use.
inline std::vector<Piece> PiecesOf(const DenseNetworks& s, float* hidden,
                                   const std::vector<Grid>& values, int64_t num_threads) {
  constexpr int64_t kMostPieces = 16, kMostNumbers = 1 << 22, kLarge = 1 << 15;
  int64_t num_weights = 1, largest = 0;  // each piece has a gradient of its own
  for (const DenseNetwork& network : s.networks) {
    num_weights += NumWeights(network);
    largest = std::max(largest, NumWeights(network));
  }
  const int64_t fewest_rows = largest < kLarge ? 512 : 128;  // that are worth a thread
  int64_t num_pieces = std::max<int64_t>(2, std::min(kMostPieces, kMostNumbers / num_weights));
  if (num_threads > 0 && largest >= kLarge) {
    const auto num_networks = static_cast<int64_t>(s.networks.size());
    num_pieces = (num_threads + num_networks - 1) / num_networks;
  }
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
  ThreadTeam::Share(static_cast<int64_t>(parts.size()), size < kFewestNumbers ? 1 : num_threads,
                    [&](int64_t index) { parts[index].Store(); });
}

}  // namespace dense
}  // namespace fastrl

#endif
