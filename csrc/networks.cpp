// The part of the module that computes networks: checks arguments, releases the GIL, calls the
// headers.

#include <cstdint>
#include <string>
#include <vector>

#include "adam.h"
#include "arguments.h"
#include "perceptron.h"
#include "recurrent.h"
#include "squashed_normal.h"
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

// Sizes of networks. Their arrays come as addresses, for taking tensors apart takes as long as a
// small product; kernels/perceptrons.py has seen to types, shapes and strides. Comments name the
// arrays in their order, perceptron.h says what they hold.
class Perceptrons {
 public:
  Perceptrons(int64_t num_networks, int64_t num_rows, nb::sequence sizes, nb::sequence have_rows) {
    if (!fastrl::HasTiles()) Refuse("this processor has no tiles of bfloat16");
    sizes_ = {num_networks, num_rows, {}, 0, 0};
    for (size_t layer = 0; layer + 1 < nb::len(sizes); ++layer) {
      const auto K = nb::cast<int64_t>(sizes[layer]), N = nb::cast<int64_t>(sizes[layer + 1]);
      const bool has_rows = nb::cast<bool>(have_rows[layer]);
      sizes_.weights.push_back({{nullptr, K, N, has_rows ? N : 1, has_rows ? 1 : K}, K * N});
    }
  }

  // x, hidden or 0, outputs; weights; biases
  void Forward(nb::sequence addresses, int64_t num_pieces, int64_t num_threads) const {
    const std::vector<float*> at = ArraysAt(addresses);
    const size_t L = sizes_.weights.size();
    const fastrl::Perceptrons p =
        With({at.begin() + 3, at.begin() + 3 + L}, num_pieces, num_threads);
    nb::gil_scoped_release release;
    fastrl::RunForward(p, Rows(at[0]), {at.begin() + 3 + L, at.end()}, at[1], at[2]);
  }

  // d_outputs, hidden, d_hidden or 0, d_inputs or 0; weights
  void Backward(nb::sequence addresses, int64_t num_pieces, int64_t num_threads) const {
    const std::vector<float*> at = ArraysAt(addresses);
    const fastrl::Perceptrons p = With({at.begin() + 4, at.end()}, num_pieces, num_threads);
    nb::gil_scoped_release release;
    fastrl::RunBackward(p, at[0], at[1], at[2], at[3]);
  }

  // x, d_outputs, hidden, d_hidden; d_weights; d_biases
  void Gradients(nb::sequence addresses, int64_t num_pieces, int64_t num_threads) const {
    const std::vector<float*> at = ArraysAt(addresses);
    const auto middle = at.begin() + 4 + sizes_.weights.size();
    fastrl::Perceptrons p = sizes_;
    p.num_pieces = num_pieces, p.num_threads = num_threads;
    nb::gil_scoped_release release;
    fastrl::RunGradients(p, Rows(at[0]), at[1], at[2], at[3], {at.begin() + 4, middle},
                         {middle, at.end()});
  }

 private:
  fastrl::Matrix Rows(const float* x) const {
    const int64_t D = sizes_.num_inputs(0);
    return {x, sizes_.num_rows, D, D, 1};
  }

  fastrl::Perceptrons With(const std::vector<float*>& weights, int64_t num_pieces,
                           int64_t num_threads) const {
    fastrl::Perceptrons p = sizes_;
    for (size_t layer = 0; layer < weights.size(); ++layer) {
      p.weights[layer].first.data = weights[layer];
    }
    p.num_pieces = num_pieces, p.num_threads = num_threads;
    return p;
  }

  fastrl::Perceptrons sizes_;
};

// outputs, noise, actions, log_probs
void DrawSquashedNormal(nb::sequence addresses, int64_t num_rows, int64_t num_actions,
                        float log_std_min, float log_std_max, int64_t num_threads) {
  const std::vector<float*> at = ArraysAt(addresses);
  nb::gil_scoped_release release;
  const fastrl::SquashedNormal normal{at[0],       at[1],       num_rows,
                                      num_actions, log_std_min, log_std_max};
  normal.Draw(at[2], at[3], num_threads);
}

// outputs, noise, actions, d_actions, d_log_probs, d_outputs
void TakeBackSquashedNormal(nb::sequence addresses, int64_t num_rows, int64_t num_actions,
                            int64_t d_actions_stride, float log_std_min, float log_std_max,
                            int64_t num_threads) {
  const std::vector<float*> at = ArraysAt(addresses);
  nb::gil_scoped_release release;
  const fastrl::SquashedNormal normal{at[0],       at[1],       num_rows,
                                      num_actions, log_std_min, log_std_max};
  normal.TakeBack(at[2], at[3], d_actions_stride, at[4], at[5], num_threads);
}

// parameters, gradient, mean, square; step and learning rate, one number each
void Adam(nb::sequence addresses, int64_t num_parameters, double eps, double beta1, double beta2,
          int64_t num_threads) {
  if (!fastrl::HasTiles()) Refuse("this processor has no tiles of bfloat16");
  const std::vector<float*> at = ArraysAt(addresses);
  nb::gil_scoped_release release;
  const fastrl::AdamStep step{at[0], at[2], at[3], at[1], beta1, beta2, eps, *at[4], *at[5]};
  step.Run(num_parameters, num_threads);
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
  m.def("draw_squashed_normal", &DrawSquashedNormal, "addresses"_a, "num_rows"_a, "num_actions"_a,
        "log_std_min"_a, "log_std_max"_a, "num_threads"_a);
  m.def("take_back_squashed_normal", &TakeBackSquashedNormal, "addresses"_a, "num_rows"_a,
        "num_actions"_a, "d_actions_stride"_a, "log_std_min"_a, "log_std_max"_a, "num_threads"_a);
  m.def("adam", &Adam, "addresses"_a, "num_parameters"_a, "eps"_a, "beta1"_a, "beta2"_a,
        "num_threads"_a);
  nb::class_<Perceptrons>(m, "Perceptrons")
      .def(nb::init<int64_t, int64_t, nb::sequence, nb::sequence>(), "num_networks"_a, "num_rows"_a,
           "sizes"_a, "have_rows"_a)
      .def("forward", &Perceptrons::Forward, "addresses"_a, "num_pieces"_a, "num_threads"_a)
      .def("backward", &Perceptrons::Backward, "addresses"_a, "num_pieces"_a, "num_threads"_a)
      .def("gradients", &Perceptrons::Gradients, "addresses"_a, "num_pieces"_a, "num_threads"_a);
#endif
}
