// Memory that grows and stays, at the beginning of a line of the cache. For GCC and Clang.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace fastrl {

template <typename T>
class Scratch {
 public:
  T* OfSize(int64_t count) {
    if (count > size_) {
      const auto bytes = static_cast<size_t>(count) * sizeof(T);
      memory_.reset(
          static_cast<T*>(std::aligned_alloc(kLine, (bytes + kLine - 1) / kLine * kLine)));
      size_ = memory_ ? count : 0;
      if (!memory_) throw std::bad_alloc();
    }
    return memory_.get();
  }

 private:
  static constexpr size_t kLine = 64;
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
  int64_t size_ = 0;
};

}  // namespace fastrl
