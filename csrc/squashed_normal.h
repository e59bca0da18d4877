// Actions of a normal distribution squashed by tanh, and their log-density, forwards and backwards.
//
// Letters: B rows, A actions; a network's outputs [B, 2 A] are means, then logarithms of standard
// deviations. kernels/squashed_normal.py has the formulas.

#pragma once

#include "tiles.h"

#if FASTRL_TILES

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "crew.h"

namespace fastrl {

struct SquashedNormal {
  const float *outputs, *noise;
  int64_t num_rows, num_actions;
  float log_std_min, log_std_max;

  // Into actions [B, A] and log_probs [B].
  void Draw(float* actions, float* log_probs, int64_t num_threads) const {
    ShareRows(num_threads, [&](int64_t row) {
      float sum = 0;
      for (int64_t a = 0; a < num_actions; ++a) {
        const int64_t at = row * num_actions + a;
        const float log_std = LogStd(row, a);
        const float u = Mean(row, a) + std::exp(log_std) * noise[at];
        // tanh(|u|) and 1 - tanh(u)^2 by exp(-2 |u|) - 1, which loses no bits where u is small.
        const float shrunk = std::expm1(-2 * std::abs(u));
        actions[at] = std::copysign(shrunk / (2 + shrunk), u);
        const float log_slope = 2 * (kLog2 - std::abs(u) - std::log1p(1 + shrunk));
        sum -= 0.5f * noise[at] * noise[at] + log_std + kHalfLog2Pi + log_slope;
      }
      log_probs[row] = sum;
    });
  }

  // Takes gradients of actions, whose rows are `d_actions_stride` apart, and of log-densities back
  // to those of the outputs. d log(1 - tanh(u)^2) / du is -2 tanh(u).
  void TakeBack(const float* actions, const float* d_actions, int64_t d_actions_stride,
                const float* d_log_probs, float* d_outputs, int64_t num_threads) const {
    ShareRows(num_threads, [&](int64_t row) {
      for (int64_t a = 0; a < num_actions; ++a) {
        const int64_t at = row * num_actions + a;
        const float log_std = LogStd(row, a), action = actions[at], d_log_prob = d_log_probs[row];
        const float d_squashed = d_actions[row * d_actions_stride + a] * (1 - action * action);
        const float d_mean = d_squashed + 2 * action * d_log_prob;
        const bool is_clamped = log_std != WantedLogStd(row, a);
        d_outputs[row * 2 * num_actions + a] = d_mean;
        d_outputs[(row * 2 + 1) * num_actions + a] =
            is_clamped ? 0 : d_mean * std::exp(log_std) * noise[at] - d_log_prob;
      }
    });
  }

 private:
  static constexpr float kLog2 = 0.693147180559945f, kHalfLog2Pi = 0.918938533204673f;
  static constexpr int64_t kRowsAtOnce = 64;

  float Mean(int64_t row, int64_t a) const { return outputs[row * 2 * num_actions + a]; }
  float WantedLogStd(int64_t row, int64_t a) const {
    return outputs[(row * 2 + 1) * num_actions + a];
  }
  float LogStd(int64_t row, int64_t a) const {
    return std::clamp(WantedLogStd(row, a), log_std_min, log_std_max);
  }

  template <typename Work>
  void ShareRows(int64_t num_threads, const Work& work) const {
    Crew::Share((num_rows + kRowsAtOnce - 1) / kRowsAtOnce, num_threads, [&](int64_t part) {
      const int64_t end = std::min((part + 1) * kRowsAtOnce, num_rows);
      for (int64_t row = part * kRowsAtOnce; row < end; ++row) work(row);
    });
  }
};

}  // namespace fastrl

#endif
