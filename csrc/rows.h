// Gathers rows of several [R, ...] fields into [K, ...] outputs with one list of row numbers.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace fastrl {

// Returns the position of the first row number outside [0, num_rows), or -1.
inline int64_t FirstOutOfRange(const int64_t* rows, int64_t count, int64_t num_rows) {
  // One comparison holds both bounds, as a negative number is a huge unsigned one.
  const uint64_t bound = static_cast<uint64_t>(num_rows);
  bool out_of_range = false;
  for (int64_t k = 0; k < count; ++k) out_of_range |= static_cast<uint64_t>(rows[k]) >= bound;
  if (!out_of_range) return -1;
  int64_t k = 0;
  while (static_cast<uint64_t>(rows[k]) < bound) ++k;
  return k;
}

// A size known to the compiler turns each memcpy into one or two moves.
template <int64_t kRowBytes>
void GatherFixed(const char* source, char* output, const int64_t* rows, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    std::memcpy(output + k * kRowBytes, source + rows[k] * kRowBytes, kRowBytes);
  }
}

inline void GatherRows(const char* source, char* output, int64_t row_bytes, const int64_t* rows,
                       int64_t count) {
  switch (row_bytes) {
    case 1:
      return GatherFixed<1>(source, output, rows, count);
    case 4:
      return GatherFixed<4>(source, output, rows, count);
    case 8:
      return GatherFixed<8>(source, output, rows, count);
    case 16:
      return GatherFixed<16>(source, output, rows, count);
    case 32:
      return GatherFixed<32>(source, output, rows, count);
    default:
      for (int64_t k = 0; k < count; ++k) {
        std::memcpy(output + k * row_bytes, source + rows[k] * row_bytes, row_bytes);
      }
  }
}

struct Field {
  const char* source;  // [R, row_bytes]
  char* output;        // [K, row_bytes], must not overlap the source
  int64_t row_bytes;
};

class RowGather {
 public:
  RowGather(std::vector<Field> fields, int64_t num_rows, int64_t num_outputs)
      : fields_(std::move(fields)), num_rows_(num_rows), num_outputs_(num_outputs) {}

  int64_t num_rows() const { return num_rows_; }        // R
  int64_t num_outputs() const { return num_outputs_; }  // K

  // output[k] = source[rows[k]] in every field. Returns -1, or the position of the first row number
  // outside [0, R), in which case nothing was written.
  int64_t Gather(const int64_t* rows) const {
    const int64_t wrong = FirstOutOfRange(rows, num_outputs_, num_rows_);
    if (wrong >= 0) return wrong;
    for (const Field& field : fields_) {
      GatherRows(field.source, field.output, field.row_bytes, rows, num_outputs_);
    }
    return -1;
  }

 private:
  std::vector<Field> fields_;
  int64_t num_rows_;
  int64_t num_outputs_;
};

}  // namespace fastrl
