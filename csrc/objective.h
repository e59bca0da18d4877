// PPO's clipped objective of a minibatch: its parts, and its gradient by what the networks give.
//
// ops/losses.py has the same as formulas, which torch's autograd takes the gradient of; here both
// come from one pass over the rows, some at a time in a vector. Letters: B rows, A outputs.

#pragma once

#include "dense.h"

#if FASTRL_DENSE

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace fastrl {

struct ClippedObjective {
  int64_t num_rows, num_outputs;
  std::vector<int64_t> num_choices;  // of each action dimension; none: independent normals

  const float* outputs;  // [A, B]: logits, or means
  const void* actions;   // int64 [B, dimensions], or float [B, A]
  const float* log_std;  // [A], of normals
  const float *values, *old_log_probs, *advantages, *returns, *old_values, *weights;  // [B]
  float clip_coef, ent_coef, vf_coef;
  bool clips_values;

  float *d_outputs, *d_values;  // [A, B], [B]
  float* d_log_std;             // [A], of normals
  float* metrics;               // [5]: losses of policy, value and entropy; KL; clip fraction
};

namespace objective {

constexpr int64_t kNumMetrics = 5, kRowsOfPiece = 512;

// What some of the rows add to the metrics and to d_log_std.
struct Share {
  double metrics[kNumMetrics] = {};
  std::vector<double> d_log_std;
  bool is_valid = true;
};

template <typename Shape>
struct Rows {
  using V = Vectors<Shape>;
  using Vector = typename Shape::Vector;
  static constexpr int64_t kLanes = Shape::kLanes;

  static FASTRL_INLINE void Load(Vector& to, const float* from, int64_t count) {
    to = Vector{};
    std::memcpy(&to, from, static_cast<size_t>(count) * sizeof(float));
  }
  static FASTRL_INLINE void Store(const Vector& from, float* to, int64_t count) {
    std::memcpy(to, &from, static_cast<size_t>(count) * sizeof(float));
  }
  static FASTRL_INLINE double Sum(const Vector& x) {
    double sum = 0;
    for (int64_t i = 0; i < kLanes; ++i) sum += x[i];
    return sum;
  }

  const ClippedObjective& o;
  int64_t row, count;
  Vector weight, slope;  // slope: of the loss by the log-probability

  // The log-probability of the actions and their entropy. What the gradient needs is kept in
  // `kept`: probabilities and their logarithms, or means' distances in standard deviations.
  // False if there is no such choice.
  FASTRL_INLINE bool LogProbOfChoices(float* kept, Vector& log_prob, Vector& entropy) {
    const auto* const chosen = static_cast<const int64_t*>(o.actions);
    const auto num_dims = static_cast<int64_t>(o.num_choices.size());
    for (int64_t dim = 0, first = 0; dim < num_dims; first += o.num_choices[dim++]) {
      const int64_t end = first + o.num_choices[dim];
      Vector most, sum = {}, log_sum, logit, own_entropy = {};
      Load(most, o.outputs + first * o.num_rows + row, count);
      for (int64_t a = first + 1; a < end; ++a) {
        Load(logit, o.outputs + a * o.num_rows + row, count);
        most = logit > most ? logit : most;
      }
      for (int64_t a = first; a < end; ++a) {
        Load(logit, o.outputs + a * o.num_rows + row, count);
        logit -= most;
        std::memcpy(kept + (2 * a + 1) * kLanes, &logit, sizeof(logit));
        V::Exp(logit, 80.0f);
        std::memcpy(kept + 2 * a * kLanes, &logit, sizeof(logit));
        sum += logit;
      }
      for (int64_t i = 0; i < kLanes; ++i) log_sum[i] = std::log(sum[i]);
      const Vector inverse = 1.0f / sum;
      for (int64_t a = first; a < end; ++a) {
        Vector p, log_p;
        std::memcpy(&p, kept + 2 * a * kLanes, sizeof(p));
        std::memcpy(&log_p, kept + (2 * a + 1) * kLanes, sizeof(log_p));
        p *= inverse;
        log_p -= log_sum;
        own_entropy -= p * log_p;
        std::memcpy(kept + 2 * a * kLanes, &p, sizeof(p));
        std::memcpy(kept + (2 * a + 1) * kLanes, &log_p, sizeof(log_p));
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t choice = chosen[(row + i) * num_dims + dim];
        if (choice < 0 || choice >= o.num_choices[dim]) return false;
        log_prob[i] += kept[(2 * (first + choice) + 1) * kLanes + i];
      }
      entropy += own_entropy;
      std::memcpy(kept + (2 * o.num_outputs + dim) * kLanes, &own_entropy, sizeof(own_entropy));
    }
    return true;
  }

  FASTRL_INLINE void StoreChoices(const float* kept) const {
    const auto* const chosen = static_cast<const int64_t*>(o.actions);
    const auto num_dims = static_cast<int64_t>(o.num_choices.size());
    for (int64_t dim = 0, first = 0; dim < num_dims; first += o.num_choices[dim++]) {
      Vector own_entropy, p, log_p;
      std::memcpy(&own_entropy, kept + (2 * o.num_outputs + dim) * kLanes, sizeof(own_entropy));
      for (int64_t a = first; a < first + o.num_choices[dim]; ++a) {
        std::memcpy(&p, kept + 2 * a * kLanes, sizeof(p));
        std::memcpy(&log_p, kept + (2 * a + 1) * kLanes, sizeof(log_p));
        const Vector d = p * (o.ent_coef * weight * (log_p + own_entropy) - slope);
        Store(d, o.d_outputs + a * o.num_rows + row, count);
      }
      for (int64_t i = 0; i < count; ++i) {
        const int64_t a = first + chosen[(row + i) * num_dims + dim];
        o.d_outputs[a * o.num_rows + row + i] += slope[i];
      }
    }
  }

  FASTRL_INLINE void LogProbOfNormals(float* kept, const float* inverse_std, float constant,
                                      Vector& log_prob) {
    const auto* const actions = static_cast<const float*>(o.actions);
    Vector squares = {};
    for (int64_t a = 0; a < o.num_outputs; ++a) {
      Vector mean, action = {};
      Load(mean, o.outputs + a * o.num_rows + row, count);
      for (int64_t i = 0; i < count; ++i) action[i] = actions[(row + i) * o.num_outputs + a];
      const Vector distance = (mean - action) * inverse_std[a];
      std::memcpy(kept + a * kLanes, &distance, sizeof(distance));
      squares += distance * distance;
    }
    log_prob = constant - 0.5f * squares;
  }

  FASTRL_INLINE void StoreNormals(const float* kept, const float* inverse_std, Share& share) const {
    for (int64_t a = 0; a < o.num_outputs; ++a) {
      Vector distance;
      std::memcpy(&distance, kept + a * kLanes, sizeof(distance));
      Store(-slope * distance * inverse_std[a], o.d_outputs + a * o.num_rows + row, count);
      const Vector d = slope * (distance * distance - 1.0f) - o.ent_coef * weight;
      share.d_log_std[a] += Sum(d);
    }
  }

  // Takes the surrogate's and the value's parts; sets the slope.
  FASTRL_INLINE void AddLosses(const Vector& log_prob, const Vector& entropy, Share& share) {
    Vector old_log_prob, advantage, target, value;
    Load(old_log_prob, o.old_log_probs + row, count);
    Load(advantage, o.advantages + row, count);
    Load(target, o.returns + row, count);
    Load(value, o.values + row, count);
    const Vector log_ratio = log_prob - old_log_prob;
    Vector ratio = log_ratio;
    V::Exp(ratio, 88.0f);
    ratio = log_ratio > 88.7f ? Vector{} + std::numeric_limits<float>::infinity() : ratio;
    const Vector size = advantage < 0.0f ? -advantage : advantage;
    const Vector gain = ratio * advantage, most = advantage + o.clip_coef * size;
    slope = most < gain ? Vector{} : -weight * gain;
    const Vector change = ratio - 1.0f;
    const Vector distance = change < 0.0f ? -change : change;
    const Vector is_clipped = distance > o.clip_coef ? Vector{} + 1.0f : Vector{};

    const Vector error = value - target;
    Vector loss = error * error, d_value = error + error;
    if (o.clips_values) {
      Vector old_value;
      Load(old_value, o.old_values + row, count);
      const Vector step = value - old_value, limit = Vector{} + o.clip_coef;
      const Vector held = step > limit ? limit : step < -limit ? -limit : step;
      const Vector other = old_value + held - target, other_loss = other * other;
      const Vector d_other = held == step ? other + other : Vector{};
      const Vector d_both = 0.5f * (d_value + d_other);  // as torch has it where they are equal
      d_value = other_loss < loss ? d_value : other_loss == loss ? d_both : d_other;
      loss = other_loss <= loss ? loss : other_loss;  // NaN is taken from either
    }
    Store(o.vf_coef * weight * d_value, o.d_values + row, count);

    share.metrics[0] -= Sum(weight * (most < gain ? most : gain));
    share.metrics[1] += Sum(weight * loss);
    share.metrics[2] -= Sum(weight * entropy);
    share.metrics[3] += Sum(weight * (change - log_ratio));
    share.metrics[4] += Sum(weight * is_clipped);
  }
};

template <typename Shape>
FASTRL_INLINE void ObjectiveOfPiece(const ClippedObjective& o, int64_t begin, int64_t end,
                                    Share& share) {
  using Vector = typename Rows<Shape>::Vector;
  constexpr int64_t kLanes = Shape::kLanes;
  const auto num_dims = static_cast<int64_t>(o.num_choices.size());
  float* const kept = dense::Memory(dense::kKept, (2 * o.num_outputs + num_dims) * kLanes);
  std::vector<float> inverse_std;
  double constant = 0, sum_of_entropies = 0;
  for (int64_t a = 0; num_dims == 0 && a < o.num_outputs; ++a) {
    inverse_std.push_back(std::exp(-o.log_std[a]));
    constant -= o.log_std[a] + 0.91893853320467274;         // log(2 pi) / 2
    sum_of_entropies += o.log_std[a] + 1.4189385332046727;  // log(2 pi e) / 2
  }
  share.d_log_std.assign(inverse_std.size(), 0.0);
  for (int64_t row = begin; row < end; row += kLanes) {
    Rows<Shape> rows{o, row, std::min(kLanes, end - row), {}, {}};
    rows.Load(rows.weight, o.weights + row, rows.count);  // 0 behind the last row
    Vector log_prob = {}, entropy = {};
    if (num_dims) {
      share.is_valid &= rows.LogProbOfChoices(kept, log_prob, entropy);
      if (!share.is_valid) return;
    } else {
      rows.LogProbOfNormals(kept, inverse_std.data(), static_cast<float>(constant), log_prob);
      entropy += static_cast<float>(sum_of_entropies);
    }
    rows.AddLosses(log_prob, entropy, share);
    if (num_dims) {
      rows.StoreChoices(kept);
    } else {
      rows.StoreNormals(kept, inverse_std.data(), share);
    }
  }
}

FASTRL_FOR_THIS_PROCESSOR(ObjectiveOfPiece,
                          (const ClippedObjective& o, int64_t begin, int64_t end, Share& share),
                          (o, begin, end, share))

}  // namespace objective

// Fills the gradients and the metrics; false if an action is none of its choices.
inline bool ComputeClippedObjective(const ClippedObjective& o, int64_t num_threads) {
  using objective::kRowsOfPiece;
  std::vector<objective::Share> shares((o.num_rows + kRowsOfPiece - 1) / kRowsOfPiece);
  ThreadTeam::Share(static_cast<int64_t>(shares.size()), num_threads, [&](int64_t piece) {
    const int64_t begin = piece * kRowsOfPiece, end = std::min(begin + kRowsOfPiece, o.num_rows);
    objective::RunObjectiveOfPiece(o, begin, end, shares[piece]);
  });
  for (const objective::Share& share : shares) {
    if (!share.is_valid) return false;
  }
  for (size_t piece = 1; piece < shares.size(); ++piece) {
    for (int64_t i = 0; i < objective::kNumMetrics; ++i) {
      shares[0].metrics[i] += shares[piece].metrics[i];
    }
    for (size_t a = 0; a < shares[0].d_log_std.size(); ++a) {
      shares[0].d_log_std[a] += shares[piece].d_log_std[a];
    }
  }
  for (int64_t i = 0; i < objective::kNumMetrics; ++i) {
    o.metrics[i] = static_cast<float>(shares[0].metrics[i]);
  }
  for (size_t a = 0; a < shares[0].d_log_std.size(); ++a) {
    o.d_log_std[a] = static_cast<float>(shares[0].d_log_std[a]);
  }
  return true;
}

}  // namespace fastrl

#endif
