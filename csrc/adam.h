// Adam on one vector of parameters, shared among threads.

#pragma once

#include "tiles.h"

#if FASTRL_TILES

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "crew.h"

namespace fastrl {

FASTRL_QUIET_INTRINSICS

// While one lives, this thread takes numbers below 1.2e-38 for 0. The moments of weights without a
// gradient shrink to such numbers, with which a processor is many times slower; beside an eps above
// 1e-17 they count for nothing.
class FlushingTinyNumbers {
 public:
  FlushingTinyNumbers() { _mm_setcsr(before_ | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON); }
  ~FlushingTinyNumbers() { _mm_setcsr(before_); }
  FlushingTinyNumbers(const FlushingTinyNumbers&) = delete;
  FlushingTinyNumbers& operator=(const FlushingTinyNumbers&) = delete;

 private:
  const unsigned before_ = _mm_getcsr();
};

struct AdamStep {
  float *parameters, *mean, *square;
  const float* gradient;
  double beta1, beta2, eps;
  double step, learning_rate;

  __attribute__((target("avx512f"))) void Update(int64_t begin, int64_t end) const {
    const FlushingTinyNumbers flushing;
    const auto keep1 = static_cast<float>(1 - beta1), keep2 = static_cast<float>(1 - beta2);
    const auto size = static_cast<float>(learning_rate / (1 - std::pow(beta1, step)));
    const auto scale = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, step)));
    const auto decay = static_cast<float>(beta2), small = static_cast<float>(eps);
    for (int64_t i = begin; i < end; i += 16) {
      const __mmask16 lanes = tiles::FirstLanes(end - i);
      const __m512 g = _mm512_maskz_loadu_ps(lanes, gradient + i);
      __m512 m = _mm512_maskz_loadu_ps(lanes, mean + i);
      __m512 v = _mm512_maskz_loadu_ps(lanes, square + i);
      m = _mm512_fmadd_ps(_mm512_set1_ps(keep1), _mm512_sub_ps(g, m), m);
      v = _mm512_mul_ps(_mm512_set1_ps(decay), v);
      v = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_set1_ps(keep2), g), g, v);
      _mm512_mask_storeu_ps(mean + i, lanes, m);
      _mm512_mask_storeu_ps(square + i, lanes, v);
      const __m512 root =
          _mm512_fmadd_ps(_mm512_sqrt_ps(v), _mm512_set1_ps(scale), _mm512_set1_ps(small));
      const __m512 change = _mm512_div_ps(_mm512_mul_ps(_mm512_set1_ps(size), m), root);
      const __m512 p = _mm512_maskz_loadu_ps(lanes, parameters + i);
      _mm512_mask_storeu_ps(parameters + i, lanes, _mm512_sub_ps(p, change));
    }
  }

  void Run(int64_t num_parameters, int64_t num_threads) const {
    const int64_t size = tiles::RoundUp((num_parameters + num_threads - 1) / num_threads);
    Crew::Share(num_threads, num_threads, [&](int64_t part) {
      Update(part * size, std::min((part + 1) * size, num_parameters));
    });
  }
};

FASTRL_LOUD_AGAIN

}  // namespace fastrl

#endif
