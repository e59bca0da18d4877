// Activations of layers and their slopes, by a processor's vectors.

#pragma once

#include "products.h"

#define FASTRL_DENSE FASTRL_VECTORS

#if FASTRL_DENSE

#include <cstdint>
#include <cstring>

namespace fastrl {

enum class Activation { kRelu, kTanh, kElu };

// Activations of a vector at a time, and how gradients go back through them.
template <typename Shape>
struct Vectors {
  using Vector = typename Shape::Vector;
  using Integers = typename Shape::Integers;

  // x becomes exp(x) or, `less` being 1, exp(x) - 1; both within 2 units in the last place, for x
  // held within the limit. NaN stays.
  static FASTRL_INLINE void Exp(Vector& x, float limit, float less = 0.0f) {
    x = x > limit ? Vector{} + limit : x;
    x = x < -limit ? Vector{} - limit : x;
    constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: sums round to integers, in the last bits
    const Vector shifted = x * 1.44269504f + kShift;
    const Vector n = shifted - kShift;
    // The logarithm of 2 in two parts: n times the first is exact.
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector p = Vector{} + 1.3882516387e-3f;  // (exp(r) - 1 - r) / r^2 within 2e-8, fitted by us
    p = p * r + 8.3665471330e-3f;
    p = p * r + 4.1667200713e-2f;
    p = p * r + 1.6666543424e-1f;
    p = p * r + 4.9999998150e-1f;
    Integers bits;
    std::memcpy(&bits, &shifted, sizeof(bits));
    bits = (bits + (127 - 0x4b400000)) << 23;
    Vector power;
    std::memcpy(&power, &bits, sizeof(power));
    x = power * (p * r * r + r) + (power - less);
  }

  // x becomes x / divisor, for divisors from 1 to 2^40. Vectors divide slowly: a first guess of the
  // divisor's inverse comes from its bits, and each step of Newton's squares the error.
  static FASTRL_INLINE void Divide(Vector& x, const Vector& divisor) {
    Integers bits;
    std::memcpy(&bits, &divisor, sizeof(bits));
    bits = 0x7ef311c7 - bits;
    Vector inverse;
    std::memcpy(&inverse, &bits, sizeof(inverse));
    for (int i = 0; i < 2; ++i) inverse = inverse * (2.0f - divisor * inverse);
    const Vector quotient = x * inverse;
    x = quotient + inverse * (x - quotient * divisor);  // squares it once more
  }

  static FASTRL_INLINE void Relu(Vector& x) { x = x < 0.0f ? Vector{} : x; }
  static FASTRL_INLINE void Tanh(Vector& x) {
    x += x;
    Exp(x, 20.0f, 1.0f);  // tanh(10) is 1 in float32
    Divide(x, x + 2.0f);
  }
  static FASTRL_INLINE void Elu(Vector& x) {
    Vector e = x;
    Exp(e, 80.0f, 1.0f);
    x = x > 0.0f ? x : e;
  }

  // d becomes its product with the slope at an output y.
  static FASTRL_INLINE void ReluBack(const Vector& y, Vector& d) { d = y <= 0.0f ? Vector{} : d; }
  static FASTRL_INLINE void TanhBack(const Vector& y, Vector& d) { d = d * (1.0f - y * y); }
  static FASTRL_INLINE void EluBack(const Vector& y, Vector& d) {
    d = y > 0.0f ? d : d * (y + 1.0f);
  }
};

#define FASTRL_FOR_EACH(FUNCTION)                      \
  for (int64_t i = 0; i < count; i += Shape::kLanes) { \
    typename Vectors<Shape>::Vector at, to;            \
    std::memcpy(&at, y + i, sizeof(at));               \
    std::memcpy(&to, d + i, sizeof(to));               \
    FUNCTION;                                          \
    std::memcpy(d + i, &to, sizeof(to));               \
  }

// d [count] becomes activation(d).
template <typename Shape>
FASTRL_INLINE void Activate(Activation activation, float* d, int64_t count) {
  const float* const y = d;  // the loop reads both
  if (activation == Activation::kRelu) {
    FASTRL_FOR_EACH(Vectors<Shape>::Relu(to))
  } else if (activation == Activation::kTanh) {
    FASTRL_FOR_EACH(Vectors<Shape>::Tanh(to))
  } else {
    FASTRL_FOR_EACH(Vectors<Shape>::Elu(to))
  }
}

// d [count] becomes the gradient before the activation that made y [count].
template <typename Shape>
FASTRL_INLINE void TakeBack(Activation activation, const float* y, float* d, int64_t count) {
  if (activation == Activation::kRelu) {
    FASTRL_FOR_EACH(Vectors<Shape>::ReluBack(at, to))
  } else if (activation == Activation::kTanh) {
    FASTRL_FOR_EACH(Vectors<Shape>::TanhBack(at, to))
  } else {
    FASTRL_FOR_EACH(Vectors<Shape>::EluBack(at, to))
  }
}

#undef FASTRL_FOR_EACH

}  // namespace fastrl

#endif
