// Seeded permutations of the valid rows, cut into minibatches.
//
// The order is a stable sort of the rows by a 32-bit hash of (seed, row), so that any program that
// can hash and sort finds the same one.

#pragma once

#include <cstdint>
#include <memory>
#include <utility>

namespace fastrl {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15u;

// The finaliser of splitmix64.
inline uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Stable least-significant-digit radix sort by the upper 32 bits, 11 bits a pass. Returns whichever
// of `keys` and `scratch` (both [count]) holds the sorted keys.
inline uint64_t* SortByUpperHalf(uint64_t* keys, uint64_t* scratch, int64_t count) {
  constexpr int kDigitBits = 11;
  constexpr uint64_t kNumDigits = uint64_t{1} << kDigitBits;
  for (int shift = 32; shift < 64; shift += kDigitBits) {
    int64_t position[kNumDigits] = {};
    for (int64_t i = 0; i < count; ++i) ++position[(keys[i] >> shift) % kNumDigits];
    int64_t sum = 0;
    for (int64_t& p : position) sum += std::exchange(p, sum);
    for (int64_t i = 0; i < count; ++i) {
      scratch[position[(keys[i] >> shift) % kNumDigits]++] = keys[i];
    }
    std::swap(keys, scratch);
  }
  return keys;
}

inline int64_t CountValid(const uint8_t* valid, int64_t num_rows) {
  int64_t count = 0;
  for (int64_t row = 0; row < num_rows; ++row) count += valid[row] != 0;
  return count;
}

// Deals the valid rows of [num_rows < 2^32] out to indices and weights [num_minibatches,
// batch_size]. Pieces differ by at most one row, larger ones first. A row weighs 1 / (rows of its
// piece); padding repeats the piece's first row with weight 0. The caller has checked that
// num_valid <= num_minibatches * batch_size.
inline void ShuffledMinibatches(const uint8_t* valid, int64_t num_rows, int64_t num_valid,
                                uint64_t seed, int64_t num_minibatches, int64_t batch_size,
                                int64_t* indices, float* weights) {
  // Key: hash above, row below. Not zeroed, as every element is written before it is read.
  std::unique_ptr<uint64_t[]> keys(new uint64_t[num_valid]);
  std::unique_ptr<uint64_t[]> scratch(new uint64_t[num_valid]);
  const uint64_t start = Mix(seed);
  int64_t count = 0;
  for (int64_t row = 0; row < num_rows; ++row) {
    if (!valid[row]) continue;
    const uint64_t hash = Mix(start + static_cast<uint64_t>(row) * kGolden);
    keys[count++] = (hash & 0xFFFFFFFF00000000u) | static_cast<uint64_t>(row);
  }
  const uint64_t* next = SortByUpperHalf(keys.get(), scratch.get(), num_valid);

  for (int64_t m = 0; m < num_minibatches; ++m) {
    const int64_t size = num_valid / num_minibatches + (m < num_valid % num_minibatches);
    const float weight = size > 0 ? 1.0f / static_cast<float>(size) : 0.0f;
    const int64_t first = size > 0 ? static_cast<int64_t>(*next & 0xFFFFFFFFu) : 0;
    for (int64_t b = 0; b < batch_size; ++b, ++indices, ++weights) {
      *indices = b < size ? static_cast<int64_t>(*next++ & 0xFFFFFFFFu) : first;
      *weights = b < size ? weight : 0.0f;
    }
  }
}

}  // namespace fastrl
