// The part of the module that computes recurrent networks: checks arguments, releases the GIL,
// calls the headers.

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.h"
#include "recurrent.h"

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
}
