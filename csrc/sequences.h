// Cuts a [T, N] rollout into sequences for recurrent policies: no sequence crosses an episode's
// end.

#pragma once

#include <cstdint>

namespace fastrl {

// Calls emit(env, start, length) for every sequence, ordered by env and then by start. A sequence
// ends after a done row, after max_length rows, or with the rollout; together they cover each row
// once.
template <typename Emit>
void ForEachSequence(const uint8_t* done, int64_t num_steps, int64_t num_envs, int64_t max_length,
                     Emit emit) {
  for (int64_t env = 0; env < num_envs; ++env) {
    int64_t start = 0;
    for (int64_t t = 0; t < num_steps; ++t) {
      const int64_t length = t + 1 - start;
      if (done[t * num_envs + env] || length == max_length || t + 1 == num_steps) {
        emit(env, start, length);
        start = t + 1;
      }
    }
  }
}

inline int64_t CountSequences(const uint8_t* done, int64_t num_steps, int64_t num_envs,
                              int64_t max_length) {
  int64_t count = 0;
  ForEachSequence(done, num_steps, num_envs, max_length,
                  [&](int64_t, int64_t, int64_t) { ++count; });
  return count;
}

// Fills env, start and length, each [CountSequences(...)].
inline void CutSequences(const uint8_t* done, int64_t num_steps, int64_t num_envs,
                         int64_t max_length, int64_t* env, int64_t* start, int64_t* length) {
  ForEachSequence(done, num_steps, num_envs, max_length, [&](int64_t e, int64_t s, int64_t l) {
    *env++ = e;
    *start++ = s;
    *length++ = l;
  });
}

// Returns the position of the first sequence that no rollout of num_envs columns can hold, or -1.
inline int64_t FirstBadSequence(const int64_t* env, const int64_t* start, const int64_t* length,
                                int64_t num_sequences, int64_t num_envs, int64_t max_length) {
  for (int64_t s = 0; s < num_sequences; ++s) {
    if (env[s] < 0 || env[s] >= num_envs || start[s] < 0 || length[s] < 1 ||
        length[s] > max_length) {
      return s;
    }
  }
  return -1;
}

// Fills indices and mask, both [max_length, num_sequences]: column s lists the rows t * num_envs +
// env of sequence s, padded with its first row where the mask is false.
inline void SequenceGrid(const int64_t* env, const int64_t* start, const int64_t* length,
                         int64_t num_sequences, int64_t num_envs, int64_t max_length,
                         int64_t* indices, bool* mask) {
  for (int64_t l = 0; l < max_length; ++l) {
    for (int64_t s = 0; s < num_sequences; ++s, ++indices, ++mask) {
      const bool real = l < length[s];
      *indices = (start[s] + (real ? l : 0)) * num_envs + env[s];
      *mask = real;
    }
  }
}

}  // namespace fastrl
