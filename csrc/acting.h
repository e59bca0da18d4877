// What a policy does with one step's observations, in one call: normalise them, take them through
// the networks of dense.h, draw actions with given noise, bring them to the environments' bounds.
//
// Letters: B rows, D inputs, A actions or choices.

#pragma once

#include "dense.h"

#if FASTRL_DENSE

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace fastrl {

// Normalises by (x - shift) * scale, held within the limit; shift may be null.
struct Normalizer {
  const float *shift, *scale;
  float limit;
};

namespace acting {

// Returns rows [B, D] as the networks see them.
inline const float* Normalized(const Normalizer& n, const float* x, int64_t num_rows,
                               int64_t num_inputs) {
  if (!n.shift) return x;
  float* const rows = dense::Memory(dense::kRows, num_rows * num_inputs);
  for (int64_t r = 0; r < num_rows; ++r) {
    for (int64_t i = 0; i < num_inputs; ++i) {
      const float value = (x[r * num_inputs + i] - n.shift[i]) * n.scale[i];
      // The comparisons leave NaN as it is.
      rows[r * num_inputs + i] = value < -n.limit ? -n.limit : value > n.limit ? n.limit : value;
    }
  }
  return rows;
}

// Returns what the one head gives for the rows, [B, A].
inline float* Outputs(const DenseNetworks& s, const Normalizer& normalizer, const float* x) {
  const int64_t A = s.networks[0].heads[0].num_outputs;
  float* const outputs = dense::Memory(dense::kActions, s.num_rows * A);
  DenseForward(s, Normalized(normalizer, x, s.num_rows, s.num_inputs), nullptr, {{outputs, A, 1}},
               1);
  return outputs;
}

}  // namespace acting

// choices [B]: where logits plus Gumbel noise [B, A] are largest; the first NaN counts as largest.
inline void DrawChoices(const DenseNetworks& s, const Normalizer& normalizer, const float* x,
                        const float* noise, int64_t* choices) {
  const float* const logits = acting::Outputs(s, normalizer, x);
  const int64_t A = s.networks[0].heads[0].num_outputs;
  for (int64_t r = 0; r < s.num_rows; ++r) {
    int64_t best = 0;
    float most = logits[r * A] + noise[r * A];
    for (int64_t a = 1; a < A && !std::isnan(most); ++a) {
      const float value = logits[r * A + a] + noise[r * A + a];
      if (!(value <= most)) best = a, most = value;
    }
    choices[r] = best;
  }
}

// drawn [B, A]: means plus exp(log_std) [A] times noise [B, A]; bounded: these within [low, high].
inline void DrawNormals(const DenseNetworks& s, const Normalizer& normalizer, const float* x,
                        const float* noise, const float* log_std, const float* low,
                        const float* high, float* drawn, float* bounded) {
  const float* const means = acting::Outputs(s, normalizer, x);
  const int64_t A = s.networks[0].heads[0].num_outputs;
  std::vector<float> std_devs(static_cast<size_t>(A));
  for (int64_t a = 0; a < A; ++a) std_devs[a] = std::exp(log_std[a]);
  for (int64_t r = 0; r < s.num_rows; ++r) {
    for (int64_t a = 0; a < A; ++a) {
      const float value = means[r * A + a] + std_devs[a] * noise[r * A + a];
      drawn[r * A + a] = value;
      bounded[r * A + a] = value < low[a] ? low[a] : value > high[a] ? high[a] : value;
    }
  }
}

}  // namespace fastrl

#endif
