// What the processes of one machine tell each other, through memory that they share: each leaves
// its bytes there and takes those of all. A round is two copies and, as a rule, no call to the
// system.

#pragma once

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>
#include <cstring>
#include <thread>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>
#endif

#include "pause.h"

namespace fastrl {

// Sleeps while `word` is `value`, for a tenth of a second at most.
inline void Sleep(std::atomic<uint32_t>* word, uint32_t value) {
#ifdef __linux__
  const timespec limit{0, 100'000'000};
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT, value, &limit, nullptr, 0);
#else
  if (word->load() == value) std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
}

inline void WakeAll(std::atomic<uint32_t>* word) {
#ifdef __linux__
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
#else
  static_cast<void>(word);
#endif
}

class Exchange {
 public:
  using Clock = std::chrono::steady_clock;

  // Bytes that each of R processes can leave in so much memory. It holds a line for each and two
  // slots for each.
  static int64_t SlotBytes(int64_t memory_bytes, int64_t num_ranks) {
    return (memory_bytes / num_ranks - kLineBytes) / 2;
  }

  // The memory is aligned, and all zero before the first process uses it. Whoever waits looks again
  // and again for `spin_seconds`, and then sleeps.
  Exchange(char* memory, int64_t rank, int64_t num_ranks, int64_t slot_bytes, double spin_seconds)
      : memory_(memory),
        rank_(rank),
        num_ranks_(num_ranks),
        slot_bytes_(slot_bytes),
        spin_seconds_(spin_seconds) {}

  int64_t num_ranks() const { return num_ranks_; }
  int64_t slot_bytes() const { return slot_bytes_; }

  // Copies `own`, of a slot's size at most and of one size everywhere, and sets `all` [R,
  // num_bytes]. Returns whether all came in time.
  //
  // Slots are used in turn. A process that is in round n has seen all others in round n - 1 or
  // later, so they are done with what it wrote in round n - 2.
  bool Gather(const char* own, int64_t num_bytes, char* all, double patience_seconds) {
    ++round_;
    std::memcpy(Slot(rank_), own, static_cast<size_t>(num_bytes));
    Line* mine = LineOf(rank_);
    mine->round.store(round_);
    if (mine->num_sleepers.load() > 0) WakeAll(&mine->round);
    const auto start = Clock::now();
    for (int64_t step = 0; step < num_ranks_; ++step) {
      const int64_t rank = (rank_ + step) % num_ranks_;  // its own first, that is here already
      if (!Await(LineOf(rank), start, patience_seconds)) return false;
      std::memcpy(all + rank * num_bytes, Slot(rank), static_cast<size_t>(num_bytes));
    }
    return true;
  }

 private:
  static constexpr int64_t kLineBytes = 64;  // no two processes write to one line of the cache

  struct Line {
    std::atomic<uint32_t> round;
    std::atomic<uint32_t> num_sleepers;
  };
  static_assert(sizeof(Line) <= kLineBytes && std::atomic<uint32_t>::is_always_lock_free);

  Line* LineOf(int64_t rank) const { return reinterpret_cast<Line*>(memory_ + rank * kLineBytes); }

  char* Slot(int64_t rank) const {
    return memory_ + num_ranks_ * kLineBytes + (2 * rank + round_ % 2) * slot_bytes_;
  }

  static double SecondsSince(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // Rounds are counted modulo 2^32, and are at most one apart.
  bool IsThere(const Line* line) const {
    return static_cast<int32_t>(line->round.load() - round_) >= 0;
  }

  bool Await(Line* line, Clock::time_point start, double patience_seconds) const {
    while (!IsThere(line)) {
      for (int i = 0; i < 16; ++i) Pause();
      if (SecondsSince(start) > spin_seconds_) break;
    }
    while (!IsThere(line)) {
      if (SecondsSince(start) > patience_seconds) return false;
      line->num_sleepers.fetch_add(1);
      const uint32_t round = line->round.load();
      if (static_cast<int32_t>(round - round_) < 0) Sleep(&line->round, round);
      line->num_sleepers.fetch_sub(1);
    }
    return true;
  }

  char* memory_;
  int64_t rank_;
  int64_t num_ranks_;
  int64_t slot_bytes_;
  double spin_seconds_;
  uint32_t round_ = 0;
};

}  // namespace fastrl
