// What of an LSTM or a GRU cannot be done for all steps at once: the product with the state before,
// the gates, and the same backwards. Projections of inputs and gradients of weights are ordinary
// products over all rows, and not here. Letters: L steps, B sequences, H outputs.
//
// Sequences lie in order of falling length, and step t has a row for the first alive[t] of them, no
// others: rows are packed, [R, *] with R the sum of alive.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "products.h"

namespace fastrl {

struct Sequences {
  int64_t num_steps;     // L
  int64_t num_columns;   // B
  int64_t num_outputs;   // H
  int64_t num_rows;      // R
  const int64_t* alive;  // [L], falling
  const float* weight;   // forward: [H, G * H]; backward: [G * H, H]; G gates
};

// exp within 2 units in the last place, in operations that compilers do for many numbers at once:
// no comparison of floats, which might trap. It stays below 2^128 and above 2^-127.
FASTRL_INLINE float Exp(float x) {
  const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // to the nearest integer
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  int32_t exponent = static_cast<int32_t>(n);
  exponent = exponent < -126 ? -126 : exponent;
  exponent = exponent > 127 ? 127 : exponent;
  const int32_t bits = (exponent + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return (p * r * r + r + 1.0f) * power;
}

FASTRL_INLINE float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }
FASTRL_INLINE float Tanh(float x) { return 2.0f / (1.0f + Exp(-2.0f * x)) - 1.0f; }

// Some neighbouring numbers: a size known to the compiler makes vectors of the loops over them.
constexpr int64_t kBlock = 16;

struct Block {
  float at[kBlock];

  FASTRL_INLINE void Load(const float* from, int64_t count) {
    if (count == kBlock) {
      std::memcpy(at, from, sizeof(at));
    } else {
      std::memset(at, 0, sizeof(at));
      std::memcpy(at, from, static_cast<size_t>(count) * sizeof(float));
    }
  }

  FASTRL_INLINE void Store(float* to, int64_t count) const {
    if (count == kBlock) {
      std::memcpy(to, at, sizeof(at));
    } else {
      std::memcpy(to, at, static_cast<size_t>(count) * sizeof(float));
    }
  }
};

// gates [R, 4 H]: from projected inputs to the values of i, f, g and o. From the states before the
// first step, [B, H] each, to hidden, cells, squashed = tanh(cells), and `before`, the hidden state
// that each row starts from, all [R, H].
template <typename Shape>
FASTRL_INLINE void LstmForward(const Sequences& s, const float* first_hidden,
                               const float* first_cells, float* gates, float* hidden, float* cells,
                               float* squashed, float* before) {
  const int64_t H = s.num_outputs;
  const Panels<Shape> weight(s.weight, 4 * H, H, 4 * H);
  const float *h = first_hidden, *c = first_cells;
  for (int64_t t = 0, first = 0; t < s.num_steps && s.alive[t] > 0; first += s.alive[t++]) {
    const int64_t rows = s.alive[t];
    float* const g = gates + first * 4 * H;
    std::memcpy(before + first * H, h, static_cast<size_t>(rows * H) * sizeof(float));
    weight.AddProduct(h, H, g, 4 * H, rows);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < H; j += kBlock) {
        const int64_t count = std::min(kBlock, H - j), at = (first + r) * H + j;
        float* const row = g + r * 4 * H + j;
        Block in, forget, fresh, out, cell, tanh_cell, output;
        in.Load(row, count);
        forget.Load(row + H, count);
        fresh.Load(row + 2 * H, count);
        out.Load(row + 3 * H, count);
        cell.Load(c + r * H + j, count);
        for (int64_t k = 0; k < kBlock; ++k) in.at[k] = Sigmoid(in.at[k]);
        for (int64_t k = 0; k < kBlock; ++k) forget.at[k] = Sigmoid(forget.at[k]);
        for (int64_t k = 0; k < kBlock; ++k) fresh.at[k] = Tanh(fresh.at[k]);
        for (int64_t k = 0; k < kBlock; ++k) out.at[k] = Sigmoid(out.at[k]);
        for (int64_t k = 0; k < kBlock; ++k) {
          cell.at[k] = forget.at[k] * cell.at[k] + in.at[k] * fresh.at[k];
          tanh_cell.at[k] = Tanh(cell.at[k]);
          output.at[k] = out.at[k] * tanh_cell.at[k];
        }
        in.Store(row, count);
        forget.Store(row + H, count);
        fresh.Store(row + 2 * H, count);
        out.Store(row + 3 * H, count);
        cell.Store(cells + at, count);
        tanh_cell.Store(squashed + at, count);
        output.Store(hidden + at, count);
      }
    }
    h = hidden + first * H;
    c = cells + first * H;
  }
}

// From gradients of outputs [R, H] to those of projected inputs [R, 4 H].
template <typename Shape>
FASTRL_INLINE void LstmBackward(const Sequences& s, const float* first_cells, const float* gates,
                                const float* cells, const float* squashed, const float* d_outputs,
                                float* d_gates) {
  const int64_t H = s.num_outputs;
  const Panels<Shape> weight(s.weight, H, 4 * H, H);
  const auto size = static_cast<size_t>(s.num_columns * H);
  std::vector<float> d_hidden(size), d_cells(size);
  for (int64_t t = s.num_steps - 1, first = s.num_rows; t >= 0; --t) {
    const int64_t rows = s.alive[t];
    first -= rows;
    const float* const c = t > 0 ? cells + (first - s.alive[t - 1]) * H : first_cells;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < H; j += kBlock) {
        const int64_t count = std::min(kBlock, H - j), at = (first + r) * H + j, own = r * H + j;
        const float* const row = gates + (first + r) * 4 * H + j;
        float* const d_row = d_gates + (first + r) * 4 * H + j;
        Block in, forget, fresh, out, before, tanh_cell, d, d_h, d_c;
        in.Load(row, count);
        forget.Load(row + H, count);
        fresh.Load(row + 2 * H, count);
        out.Load(row + 3 * H, count);
        before.Load(c + own, count);
        tanh_cell.Load(squashed + at, count);
        d.Load(d_outputs + at, count);
        d_h.Load(d_hidden.data() + own, count);
        d_c.Load(d_cells.data() + own, count);
        for (int64_t k = 0; k < kBlock; ++k) {
          const float i = in.at[k], f = forget.at[k], n = fresh.at[k], o = out.at[k];
          const float t_c = tanh_cell.at[k], d_output = d_h.at[k] + d.at[k];
          const float d_cell = d_c.at[k] + d_output * o * (1.0f - t_c * t_c);
          in.at[k] = d_cell * n * i * (1.0f - i);
          forget.at[k] = d_cell * before.at[k] * f * (1.0f - f);
          fresh.at[k] = d_cell * i * (1.0f - n * n);
          out.at[k] = d_output * t_c * o * (1.0f - o);
          d_c.at[k] = d_cell * f;
          d_h.at[k] = 0.0f;
        }
        in.Store(d_row, count);
        forget.Store(d_row + H, count);
        fresh.Store(d_row + 2 * H, count);
        out.Store(d_row + 3 * H, count);
        d_c.Store(d_cells.data() + own, count);
        d_h.Store(d_hidden.data() + own, count);
      }
    }
    weight.AddProduct(d_gates + first * 4 * H, 4 * H, d_hidden.data(), H, rows);
  }
}

// gates [R, 3 H]: from projected inputs to the values of r, z and n. candidates [R, H]: from the
// state's bias of n to all that the state adds to it. hidden and before [R, H] as above.
template <typename Shape>
FASTRL_INLINE void GruForward(const Sequences& s, const float* first_hidden, float* gates,
                              float* candidates, float* hidden, float* before) {
  const int64_t H = s.num_outputs;
  const Panels<Shape> gate_weight(s.weight, 3 * H, H, 2 * H);
  const Panels<Shape> candidate_weight(s.weight + 2 * H, 3 * H, H, H);
  const float* h = first_hidden;
  for (int64_t t = 0, first = 0; t < s.num_steps && s.alive[t] > 0; first += s.alive[t++]) {
    const int64_t rows = s.alive[t];
    float* const g = gates + first * 3 * H;
    std::memcpy(before + first * H, h, static_cast<size_t>(rows * H) * sizeof(float));
    gate_weight.AddProduct(h, H, g, 3 * H, rows);
    candidate_weight.AddProduct(h, H, candidates + first * H, H, rows);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < H; j += kBlock) {
        const int64_t count = std::min(kBlock, H - j), at = (first + r) * H + j;
        float* const row = g + r * 3 * H + j;
        Block reset, keep, fresh, candidate, output;
        reset.Load(row, count);
        keep.Load(row + H, count);
        fresh.Load(row + 2 * H, count);
        candidate.Load(candidates + at, count);
        output.Load(before + at, count);
        for (int64_t k = 0; k < kBlock; ++k) {
          reset.at[k] = Sigmoid(reset.at[k]);
          keep.at[k] = Sigmoid(keep.at[k]);
          fresh.at[k] = Tanh(fresh.at[k] + reset.at[k] * candidate.at[k]);
          output.at[k] = fresh.at[k] + keep.at[k] * (output.at[k] - fresh.at[k]);
        }
        reset.Store(row, count);
        keep.Store(row + H, count);
        fresh.Store(row + 2 * H, count);
        output.Store(hidden + at, count);
      }
    }
    h = hidden + first * H;
  }
}

// From gradients of outputs [R, H] to those of what inputs and state each add to the gates, both
// [R, 3 H]; they differ in n alone.
template <typename Shape>
FASTRL_INLINE void GruBackward(const Sequences& s, const float* gates, const float* candidates,
                               const float* before_rows, const float* d_outputs, float* d_inputs,
                               float* d_states) {
  const int64_t H = s.num_outputs;
  const Panels<Shape> weight(s.weight, H, 3 * H, H);
  std::vector<float> d_hidden(static_cast<size_t>(s.num_columns * H));
  for (int64_t t = s.num_steps - 1, first = s.num_rows; t >= 0; --t) {
    const int64_t rows = s.alive[t];
    first -= rows;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < H; j += kBlock) {
        const int64_t count = std::min(kBlock, H - j), at = (first + r) * H + j, own = r * H + j;
        const int64_t row = (first + r) * 3 * H + j;
        Block reset, keep, fresh, candidate, before, d, d_h, d_state;
        reset.Load(gates + row, count);
        keep.Load(gates + row + H, count);
        fresh.Load(gates + row + 2 * H, count);
        candidate.Load(candidates + at, count);
        before.Load(before_rows + at, count);
        d.Load(d_outputs + at, count);
        d_h.Load(d_hidden.data() + own, count);
        for (int64_t k = 0; k < kBlock; ++k) {
          const float a = reset.at[k], z = keep.at[k], n = fresh.at[k];
          const float d_output = d_h.at[k] + d.at[k];
          const float d_fresh = d_output * (1.0f - z) * (1.0f - n * n);
          reset.at[k] = d_fresh * candidate.at[k] * a * (1.0f - a);
          keep.at[k] = d_output * (before.at[k] - n) * z * (1.0f - z);
          fresh.at[k] = d_fresh;
          d_state.at[k] = d_fresh * a;
          d_h.at[k] = d_output * z;
        }
        reset.Store(d_inputs + row, count);
        keep.Store(d_inputs + row + H, count);
        fresh.Store(d_inputs + row + 2 * H, count);
        reset.Store(d_states + row, count);
        keep.Store(d_states + row + H, count);
        d_state.Store(d_states + row + 2 * H, count);
        d_h.Store(d_hidden.data() + own, count);
      }
    }
    weight.AddProduct(d_states + first * 3 * H, 3 * H, d_hidden.data(), H, rows);
  }
}

FASTRL_FOR_THIS_PROCESSOR(LstmForward,
                          (const Sequences& s, const float* first_hidden, const float* first_cells,
                           float* gates, float* hidden, float* cells, float* squashed,
                           float* before),
                          (s, first_hidden, first_cells, gates, hidden, cells, squashed, before))
FASTRL_FOR_THIS_PROCESSOR(LstmBackward,
                          (const Sequences& s, const float* first_cells, const float* gates,
                           const float* cells, const float* squashed, const float* d_outputs,
                           float* d_gates),
                          (s, first_cells, gates, cells, squashed, d_outputs, d_gates))
FASTRL_FOR_THIS_PROCESSOR(GruForward,
                          (const Sequences& s, const float* first_hidden, float* gates,
                           float* candidates, float* hidden, float* before),
                          (s, first_hidden, gates, candidates, hidden, before))
FASTRL_FOR_THIS_PROCESSOR(GruBackward,
                          (const Sequences& s, const float* gates, const float* candidates,
                           const float* before_rows, const float* d_outputs, float* d_inputs,
                           float* d_states),
                          (s, gates, candidates, before_rows, d_outputs, d_inputs, d_states))

}  // namespace fastrl
