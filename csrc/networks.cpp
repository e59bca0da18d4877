// The part of the module that computes networks: checks arguments, releases the GIL, calls the
// headers.

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"
#include "perceptron.h"
#include "recurrent.h"
#include "tiles.h"

using nb::literals::operator""_a;

namespace {

// Sizes, weight and living rows of a pass over sequences, checked; G gates.
fastrl::Sequences ImportSequences(handle gates, handle first, handle weight, handle alive,
                                  int64_t num_gates, bool is_forward) {
  const auto first_in = ImportFirst<Input>(first, "first", kFloat32, 2, "[B, H]");
  const int64_t B = first_in.shape_ptr()[0], H = first_in.shape_ptr()[1], GH = num_gates * H;
  const Shape shape = is_forward ? Shape{H, GH} : Shape{GH, H};
  const auto weight_in = ImportAs<Input>(weight, "weight", kFloat32, shape);
  const auto alive_in = ImportFirst<Input>(alive, "alive", kInt64, 1, "[L]");
  const auto* rows = Data<const int64_t>(alive_in);
  const int64_t L = alive_in.shape_ptr()[0];
  int64_t most = B, R = 0;
  for (int64_t t = 0; t < L; most = rows[t], R += rows[t++]) {
    if (rows[t] >= 0 && rows[t] <= most) continue;
    Refuse("alive: expected at most ", most, " rows at step ", t, ", got ", rows[t]);
  }
  ImportAs<Input>(gates, "gates", kFloat32, {R, GH});
  return {L, B, H, R, rows, Data<const float>(weight_in)};
}

void LstmForward(handle gates, handle first_hidden, handle first_cells, handle hidden, handle cells,
                 handle squashed, handle before, handle weight, handle alive) {
  const auto s = ImportSequences(gates, first_hidden, weight, alive, 4, true);
  const int64_t B = s.num_columns, R = s.num_rows, H = s.num_outputs;
  const float* h0 = Floats(first_hidden, "first_hidden", B, H);
  const float* c0 = Floats(first_cells, "first_cells", B, H);
  float *g = Floats(gates, "gates", R, 4 * H), *h = Floats(hidden, "hidden", R, H);
  float *c = Floats(cells, "cells", R, H), *q = Floats(squashed, "squashed", R, H);
  float* b = Floats(before, "before", R, H);
  nb::gil_scoped_release release;
  fastrl::RunLstmForward(s, h0, c0, g, h, c, q, b);
}

void LstmBackward(handle gates, handle first_cells, handle cells, handle squashed, handle d_outputs,
                  handle d_gates, handle weight, handle alive) {
  const auto s = ImportSequences(gates, first_cells, weight, alive, 4, false);
  const int64_t R = s.num_rows, H = s.num_outputs;
  const float *g = Floats(gates, "gates", R, 4 * H), *c = Floats(cells, "cells", R, H);
  const float* c0 = Floats(first_cells, "first_cells", s.num_columns, H);
  const float *q = Floats(squashed, "squashed", R, H), *d = Floats(d_outputs, "d_outputs", R, H);
  float* dg = Floats(d_gates, "d_gates", R, 4 * H);
  nb::gil_scoped_release release;
  fastrl::RunLstmBackward(s, c0, g, c, q, d, dg);
}

void GruForward(handle gates, handle first_hidden, handle candidates, handle hidden, handle before,
                handle weight, handle alive) {
  const auto s = ImportSequences(gates, first_hidden, weight, alive, 3, true);
  const int64_t R = s.num_rows, H = s.num_outputs;
  const float* h0 = Floats(first_hidden, "first_hidden", s.num_columns, H);
  float *g = Floats(gates, "gates", R, 3 * H), *m = Floats(candidates, "candidates", R, H);
  float *h = Floats(hidden, "hidden", R, H), *b = Floats(before, "before", R, H);
  nb::gil_scoped_release release;
  fastrl::RunGruForward(s, h0, g, m, h, b);
}

void GruBackward(handle gates, handle first_hidden, handle candidates, handle before,
                 handle d_outputs, handle d_inputs, handle d_states, handle weight, handle alive) {
  const auto s = ImportSequences(gates, first_hidden, weight, alive, 3, false);
  const int64_t R = s.num_rows, H = s.num_outputs;
  const float *g = Floats(gates, "gates", R, 3 * H), *b = Floats(before, "before", R, H);
  const float* m = Floats(candidates, "candidates", R, H);
  const float* d = Floats(d_outputs, "d_outputs", R, H);
  float *di = Floats(d_inputs, "d_inputs", R, 3 * H), *ds = Floats(d_states, "d_states", R, 3 * H);
  nb::gil_scoped_release release;
  fastrl::RunGruBackward(s, g, m, b, d, di, ds);
}

#if FASTRL_TILES

// A batch [E, rows, columns] of matrices, each dense, in rows or in columns.
fastrl::Stack ImportStack(const Input& array, const std::string& name) {
  if (array.ndim() != 3 || array.dtype() != kFloat32 || array.size() == 0) {
    Refuse(name, ": expected float32 [E, rows, columns] without zeros, got ",
           Describe(array.dtype(), ShapeOf(array)));
  }
  const int64_t rows = array.shape_ptr()[1], columns = array.shape_ptr()[2];
  const bool has_rows = columns == 1 || array.stride(2) == 1;
  const int64_t row_stride = has_rows ? columns : 1, column_stride = has_rows ? 1 : rows;
  const bool fits = (rows == 1 || array.stride(1) == row_stride) &&
                    (columns == 1 || array.stride(2) == column_stride) &&
                    (array.shape(0) == 1 || array.stride(0) == rows * columns);
  if (!fits || array.device_type() != nb::device::cpu::value) {
    Refuse(name, ": expected dense matrices in rows or in columns on the CPU, got strides ",
           array.stride(0), ", ", array.stride(1), ", ", array.stride(2));
  }
  return {{Data<const float>(array), rows, columns, row_stride, column_stride}, rows * columns};
}

// Networks and what all calls have, checked.
struct Networks {
  fastrl::Perceptrons sizes;
  std::vector<Input> kept;

  Networks(nb::sequence weights, int64_t num_rows, int64_t num_pieces, int64_t num_threads) {
    if (!fastrl::HasTiles()) Refuse("this processor has no tiles of bfloat16");
    if (num_pieces < 1 || num_pieces > 3) Refuse("num_pieces: expected 1 to 3, got ", num_pieces);
    if (num_threads < 1) Refuse("num_threads: expected at least 1, got ", num_threads);
    if (nb::len(weights) < 2) Refuse("weights: expected two layers or more");
    sizes = {0, num_rows, {}, num_pieces, num_threads};
    for (size_t i = 0; i < nb::len(weights); ++i) {
      const std::string name = "weights[" + std::to_string(i) + "]";
      kept.push_back(Import<Input>(weights[i], name));
      const fastrl::Stack stack = ImportStack(kept.back(), name);
      const int64_t num_networks = kept.back().shape_ptr()[0];
      if (i > 0 && (num_networks != sizes.num_networks ||
                    stack.first.num_rows != sizes.weights.back().first.num_columns)) {
        Refuse(name, ": does not follow the layer before, got ",
               Describe(kFloat32, ShapeOf(kept.back())));
      }
      sizes.num_networks = num_networks;
      sizes.weights.push_back(stack);
    }
  }

  // What hidden layers give, or the gradients of that.
  float* OfHidden(handle object, const char* name) const {
    return Data<float>(ImportAs<Output>(object, name, kFloat32, {sizes.HiddenSize()}));
  }

  int64_t num_inputs() const { return sizes.num_inputs(0); }
  int64_t num_outputs() const { return sizes.num_outputs(sizes.num_layers() - 1); }
  float* OfRows(handle object, const char* name, int64_t size) const {
    const Shape shape = {sizes.num_networks, sizes.num_rows, size};
    return Data<float>(ImportAs<Output>(object, name, kFloat32, shape));
  }

  // One array [E, N] for each layer.
  std::vector<float*> OfOutputs(nb::sequence arrays, const char* name) const {
    if (static_cast<int64_t>(nb::len(arrays)) != sizes.num_layers()) {
      Refuse(name, ": expected ", sizes.num_layers(), ", got ", nb::len(arrays));
    }
    std::vector<float*> data;
    for (int64_t layer = 0; layer < sizes.num_layers(); ++layer) {
      data.push_back(Floats(arrays[layer], name, sizes.num_networks, sizes.num_outputs(layer)));
    }
    return data;
  }

  // One array like the weights for each layer.
  std::vector<float*> OfWeights(nb::sequence arrays, const char* name) const {
    if (static_cast<int64_t>(nb::len(arrays)) != sizes.num_layers()) {
      Refuse(name, ": expected ", sizes.num_layers(), ", got ", nb::len(arrays));
    }
    std::vector<float*> data;
    for (int64_t layer = 0; layer < sizes.num_layers(); ++layer) {
      const auto array = Import<Output>(arrays[layer], name);
      const Input& weight = kept[layer];
      bool fits = array.dtype() == kFloat32 && ShapeOf(array) == ShapeOf(weight);
      for (size_t i = 0; fits && i < 3; ++i) fits = array.stride(i) == weight.stride(i);
      if (!fits) Refuse(name, ": expected shapes and strides of the weights");
      data.push_back(Data<float>(array));
    }
    return data;
  }
};

fastrl::Matrix ImportRows(handle x) {
  const auto rows = ImportFirst<Input>(x, "x", kFloat32, 2, "[B, D]");
  const int64_t B = rows.shape_ptr()[0], D = rows.shape_ptr()[1];
  return {Data<const float>(rows), B, D, D, 1};
}

void RequireWidth(const fastrl::Matrix& x, const Networks& networks) {
  if (x.num_columns == networks.num_inputs()) return;
  Refuse("x: expected ", networks.num_inputs(), " columns, got ", x.num_columns);
}

void PerceptronsForward(handle x, nb::sequence weights, nb::sequence biases, handle hidden,
                        handle outputs, int64_t num_pieces, int64_t num_threads) {
  const fastrl::Matrix rows = ImportRows(x);
  const Networks networks(weights, rows.num_rows, num_pieces, num_threads);
  RequireWidth(rows, networks);
  const std::vector<float*> shifts = networks.OfOutputs(biases, "biases");
  float* const y = networks.OfRows(outputs, "outputs", networks.num_outputs());
  float* const h = networks.OfHidden(hidden, "hidden");
  nb::gil_scoped_release release;
  fastrl::RunForward(networks.sizes, rows, {shifts.begin(), shifts.end()}, h, y);
}

void PerceptronsBackward(int64_t num_rows, nb::sequence weights, handle d_outputs, handle hidden,
                         handle d_hidden, handle d_inputs, int64_t num_pieces,
                         int64_t num_threads) {
  const Networks networks(weights, num_rows, num_pieces, num_threads);
  const float* d_y = networks.OfRows(d_outputs, "d_outputs", networks.num_outputs());
  float* const d_x =
      d_inputs.is_none() ? nullptr : networks.OfRows(d_inputs, "d_inputs", networks.num_inputs());
  const float* h = networks.OfHidden(hidden, "hidden");
  float* const d_h = networks.OfHidden(d_hidden, "d_hidden");
  nb::gil_scoped_release release;
  fastrl::RunBackward(networks.sizes, d_y, h, d_h, d_x);
}

void PerceptronsGradients(handle x, nb::sequence weights, handle d_outputs, handle hidden,
                          handle d_hidden, nb::sequence d_weights, nb::sequence d_biases,
                          int64_t num_pieces, int64_t num_threads) {
  const fastrl::Matrix rows = ImportRows(x);
  const Networks networks(weights, rows.num_rows, num_pieces, num_threads);
  RequireWidth(rows, networks);
  const float* d_y = networks.OfRows(d_outputs, "d_outputs", networks.num_outputs());
  const float *h = networks.OfHidden(hidden, "hidden"),
              *d_h = networks.OfHidden(d_hidden, "d_hidden");
  const std::vector<float*> d_w = networks.OfWeights(d_weights, "d_weights");
  const std::vector<float*> d_b = networks.OfOutputs(d_biases, "d_biases");
  nb::gil_scoped_release release;
  fastrl::RunGradients(networks.sizes, rows, d_y, h, d_h, d_w, d_b);
}

#endif

}  // namespace

void BindNetworks(nb::module_& m) {
  m.def("lstm_forward", &LstmForward, "gates"_a, "first_hidden"_a, "first_cells"_a, "hidden"_a,
        "cells"_a, "squashed"_a, "before"_a, "weight"_a, "alive"_a);
  m.def("lstm_backward", &LstmBackward, "gates"_a, "first_cells"_a, "cells"_a, "squashed"_a,
        "d_outputs"_a, "d_gates"_a, "weight"_a, "alive"_a);
  m.def("gru_forward", &GruForward, "gates"_a, "first_hidden"_a, "candidates"_a, "hidden"_a,
        "before"_a, "weight"_a, "alive"_a);
  m.def("gru_backward", &GruBackward, "gates"_a, "first_hidden"_a, "candidates"_a, "before"_a,
        "d_outputs"_a, "d_inputs"_a, "d_states"_a, "weight"_a, "alive"_a);
  m.def("has_tiles", &fastrl::HasTiles);
#if FASTRL_TILES
  m.def("perceptrons_forward", &PerceptronsForward, "x"_a, "weights"_a, "biases"_a, "hidden"_a,
        "outputs"_a, "num_pieces"_a, "num_threads"_a);
  m.def("perceptrons_backward", &PerceptronsBackward, "num_rows"_a, "weights"_a, "d_outputs"_a,
        "hidden"_a, "d_hidden"_a, "d_inputs"_a.none(), "num_pieces"_a, "num_threads"_a);
  m.def("perceptrons_gradients", &PerceptronsGradients, "x"_a, "weights"_a, "d_outputs"_a,
        "hidden"_a, "d_hidden"_a, "d_weights"_a, "d_biases"_a, "num_pieces"_a, "num_threads"_a);
#endif
}
