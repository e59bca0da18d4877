// The part of the module that computes whole policies: takes addresses, releases the GIL, calls the
// headers.

#include <cstdint>
#include <vector>

#include "acting.h"
#include "arguments.h"
#include "dense.h"
#include "objective.h"

using nb::literals::operator""_a;

#if FASTRL_DENSE

namespace {

// Sizes of networks of dense layers. Their arrays come as addresses, for taking tensors apart takes
// as long as a small product; kernels/networks.py has seen to types, shapes and strides. Comments
// name the arrays in their order, dense.h says what they hold.
class Dense {
 public:
  // Each network is two lists, hidden layers and heads, of a layer's outputs and whether it has
  // rows.
  Dense(int64_t num_rows, int64_t num_inputs, int64_t activation, nb::sequence networks) {
    sizes_ = {num_rows, num_inputs, static_cast<fastrl::Activation>(activation), {}};
    for (handle network : networks) {
      fastrl::DenseNetwork& made = sizes_.networks.emplace_back();
      int64_t K = AddLayers(network[0], num_inputs, true, made.hidden);
      AddLayers(network[1], K, false, made.heads);
    }
  }

  // x, hidden or 0; values of heads; weights; biases. Strides of the values' rows and columns.
  void Forward(nb::sequence addresses, nb::sequence strides, int64_t num_threads) const {
    const std::vector<float*> at = ArraysAt(addresses);
    const fastrl::DenseNetworks s = With(at, false);
    const std::vector<fastrl::Grid> outputs = Grids(at, strides);
    nb::gil_scoped_release release;
    fastrl::DenseForward(s, at[0], at[1], outputs, num_threads);
  }

  // x, hidden; gradients of values; weights; biases; d_weights and d_biases, unless these are not
  // wanted. The address of d_x, or 0.
  void Backward(nb::sequence addresses, nb::sequence strides, bool has_d_weights, uintptr_t d_x,
                int64_t num_threads) const {
    const std::vector<float*> at = ArraysAt(addresses);
    const fastrl::DenseNetworks s = With(at, has_d_weights);
    const std::vector<fastrl::Grid> d_outputs = Grids(at, strides);
    nb::gil_scoped_release release;
    fastrl::DenseBackward(s, at[0], at[1], d_outputs, has_d_weights, At(d_x), num_threads);
  }

  // Numbers that `hidden` has.
  int64_t num_kept() const {
    int64_t size = 0;
    for (const fastrl::DenseNetwork& network : sizes_.networks) {
      size += fastrl::dense::NumKept(network, sizes_.num_rows);
    }
    return size;
  }

  // Acting, with the layers of one network and one head: weights; biases.
  void SetPolicy(nb::sequence layers, uintptr_t shift, uintptr_t scale, float limit) {
    std::vector<float*> at(3);  // no rows, nothing kept, no values
    for (float* array : ArraysAt(layers)) at.push_back(array);
    sizes_ = With(at, false);
    normalizer_ = {reinterpret_cast<float*>(shift), reinterpret_cast<float*>(scale), limit};
  }

  void DrawChoices(uintptr_t x, uintptr_t noise, uintptr_t choices) const {
    nb::gil_scoped_release release;
    fastrl::DrawChoices(sizes_, normalizer_, At(x), At(noise), reinterpret_cast<int64_t*>(choices));
  }

  void DrawNormals(uintptr_t x, uintptr_t noise, uintptr_t drawn, uintptr_t bounded,
                   uintptr_t log_std, uintptr_t low, uintptr_t high) const {
    nb::gil_scoped_release release;
    fastrl::DrawNormals(sizes_, normalizer_, At(x), At(noise), At(log_std), At(low), At(high),
                        At(drawn), At(bounded));
  }

 private:
  static float* At(uintptr_t address) { return reinterpret_cast<float*>(address); }

  static int64_t AddLayers(handle given, int64_t num_inputs, bool in_turn,
                           std::vector<fastrl::DenseLayer>& layers) {
    for (handle layer : given) {
      const auto num_outputs = nb::cast<int64_t>(layer[0]);
      layers.push_back({num_inputs, num_outputs, nb::cast<bool>(layer[1])});
      if (in_turn) num_inputs = num_outputs;
    }
    return num_inputs;
  }

  static std::vector<fastrl::Grid> Grids(const std::vector<float*>& at, nb::sequence strides) {
    std::vector<fastrl::Grid> grids;
    for (size_t i = 0; 2 * i < nb::len(strides); ++i) {
      const auto row_stride = nb::cast<int64_t>(strides[2 * i]);
      grids.push_back({at[2 + i], row_stride, nb::cast<int64_t>(strides[2 * i + 1])});
    }
    return grids;
  }

  // Puts in the arrays of all layers, those of gradients behind the others.
  fastrl::DenseNetworks With(const std::vector<float*>& at, bool has_gradients) const {
    fastrl::DenseNetworks s = sizes_;
    size_t num_layers = 0, num_heads = 0, i = 0;
    for (const fastrl::DenseNetwork& network : s.networks) {
      num_layers += network.hidden.size() + network.heads.size();
      num_heads += network.heads.size();
    }
    float* const* const first = at.data() + 2 + num_heads;
    for (fastrl::DenseNetwork& network : s.networks) {
      for (auto* layers : {&network.hidden, &network.heads}) {
        for (fastrl::DenseLayer& layer : *layers) {
          layer.weight = first[i], layer.bias = first[num_layers + i];
          if (has_gradients) {
            layer.d_weight = first[2 * num_layers + i], layer.d_bias = first[3 * num_layers + i];
          }
          ++i;
        }
      }
    }
    return s;
  }

  fastrl::DenseNetworks sizes_;
  fastrl::Normalizer normalizer_ = {};
};

// outputs, actions, log_std or 0, values, old_log_probs, advantages, returns, old_values, weights;
// clip_coef and ent_coef, one number each; d_outputs, d_values, d_log_std or 0, metrics
bool ClippedObjective(nb::sequence addresses, int64_t num_rows, int64_t num_outputs,
                      nb::sequence num_choices, float vf_coef, bool clips_values,
                      int64_t num_threads) {
  const std::vector<float*> at = ArraysAt(addresses);
  std::vector<int64_t> choices;
  for (handle number : num_choices) choices.push_back(nb::cast<int64_t>(number));
  nb::gil_scoped_release release;
  fastrl::ClippedObjective o = {};
  o.num_rows = num_rows, o.num_outputs = num_outputs, o.num_choices = choices;
  o.outputs = at[0], o.actions = at[1], o.log_std = at[2], o.values = at[3];
  o.old_log_probs = at[4], o.advantages = at[5], o.returns = at[6], o.old_values = at[7];
  o.weights = at[8], o.clip_coef = *at[9], o.ent_coef = *at[10], o.vf_coef = vf_coef;
  o.clips_values = clips_values;
  o.d_outputs = at[11], o.d_values = at[12], o.d_log_std = at[13], o.metrics = at[14];
  return fastrl::ComputeClippedObjective(o, num_threads);
}

}  // namespace

#endif

void BindPolicies(nb::module_& m) {
#if FASTRL_DENSE
  m.def("has_dense", &fastrl::HasVectors);
  m.def("wake_workers", &fastrl::ThreadTeam::Wake);
  m.def("clipped_objective", &ClippedObjective, "addresses"_a, "num_rows"_a, "num_outputs"_a,
        "num_choices"_a, "vf_coef"_a, "clips_values"_a, "num_threads"_a);
  nb::class_<Dense>(m, "Dense")
      .def(nb::init<int64_t, int64_t, int64_t, nb::sequence>(), "num_rows"_a, "num_inputs"_a,
           "activation"_a, "networks"_a)
      .def("forward", &Dense::Forward, "addresses"_a, "strides"_a, "num_threads"_a)
      .def("backward", &Dense::Backward, "addresses"_a, "strides"_a, "has_d_weights"_a, "d_x"_a,
           "num_threads"_a)
      .def_prop_ro("num_kept", &Dense::num_kept)
      .def("set_policy", &Dense::SetPolicy, "layers"_a, "shift"_a, "scale"_a, "limit"_a)
      .def("draw_choices", &Dense::DrawChoices, "x"_a, "noise"_a, "choices"_a)
      .def("draw_normals", &Dense::DrawNormals, "x"_a, "noise"_a, "drawn"_a, "bounded"_a,
           "log_std"_a, "low"_a, "high"_a);
#else
  m.def("has_dense", [] { return false; });
#endif
}
