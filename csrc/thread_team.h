// Threads that share the items of a short piece of work.
//
// Waking a thread that sleeps takes longer than most products here, so a thread that has just
// worked looks out for more for a moment before it sleeps. Nobody waits for a thread that has not
// begun: items are taken one by one, and the caller takes all that nobody else does.

#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

#include "pause.h"

namespace fastrl {

class ThreadTeam {
 public:
  // Calls work(item) for the items 0 to num_items - 1, on up to num_threads threads, this one among
  // them. Work that throws ends the process. Items are dealt in groups, 64 at most; group g is
  // first offered to thread g modulo num_threads, whose caches may know it from the piece of work
  // before.
  template <typename Work>
  static void Share(int64_t num_items, int64_t num_threads, const Work& work) {
    const auto work_alone = [&] {
      for (int64_t item = 0; item < num_items; ++item) work(item);
    };
    if (num_threads <= 1 || num_items <= 1) return work_alone();
    ThreadTeam& team = OfThisProcess();
    const std::unique_lock<std::mutex> lock(team.in_use_, std::try_to_lock);
    if (!lock.owns_lock()) return work_alone();
    const int64_t num_groups = std::min<int64_t>(num_items, kMostGroups);
    const auto work_on_group = [&](int64_t group) {
      for (int64_t item = group; item < num_items; item += num_groups) work(item);
    };
    using GroupWork = decltype(work_on_group);
    team.Run(
        num_groups, num_threads,
        [](const void* what, int64_t group) { (*static_cast<const GroupWork*>(what))(group); },
        &work_on_group);
  }

  // Has the threads that sleep look out for work: to be called a little before there is some.
  static void Wake() {
    ThreadTeam& team = OfThisProcess();
    const std::lock_guard<std::mutex> lock(team.sleep_);
    ++team.num_calls_;
    team.wake_.notify_all();
  }

 private:
  using Call = void (*)(const void*, int64_t);

  // A process that was forked has none of its parent's threads. Teams are never taken apart: a
  // process may end while their threads sleep.
  static ThreadTeam& OfThisProcess() {
    static std::mutex mutex;
    static ThreadTeam* team = nullptr;
    static pid_t owner = 0;
    const std::lock_guard<std::mutex> lock(mutex);
    if (owner != getpid()) {
      team = new ThreadTeam;
      owner = getpid();
    }
    return *team;
  }

  void Run(int64_t num_groups, int64_t num_threads, Call call, const void* what) {
    try {
      for (; num_helpers_ < num_threads - 1; ++num_helpers_) {
        std::thread([this, index = num_helpers_ + 1] { Help(index); }).detach();
      }
    } catch (const std::system_error&) {  // no more threads are to be had
    }
    call_ = call;
    what_ = what;
    num_threads_.store(num_threads, std::memory_order_relaxed);
    num_unfinished_.store(num_groups, std::memory_order_relaxed);
    open_.store(num_groups == kMostGroups ? ~uint64_t{0} : (uint64_t{1} << num_groups) - 1);
    if (num_asleep_.load() > 0) {
      const std::lock_guard<std::mutex> lock(sleep_);
      wake_.notify_all();
    }
    while (WorkOnOne(0)) {
    }
    for (int64_t i = 0; num_unfinished_.load(std::memory_order_acquire) > 0; ++i) {
      if (i < kMostPauses) {
        Pause();
      } else {
        std::this_thread::yield();  // whoever has the group may want this core
      }
    }
  }

  // Takes a group and works on it; false if there is none for this thread.
  bool WorkOnOne(int64_t thread) noexcept {
    uint64_t open = open_.load(std::memory_order_acquire);
    int group = 0;
    do {
      const int64_t num_threads = num_threads_.load(std::memory_order_relaxed);
      if (open == 0 || thread >= num_threads) return false;
      group = __builtin_ctzll(open);
      for (uint64_t rest = open; rest != 0; rest &= rest - 1) {
        if (__builtin_ctzll(rest) % num_threads != thread) continue;
        group = __builtin_ctzll(rest);
        break;
      }
    } while (!open_.compare_exchange_weak(open, open & ~(uint64_t{1} << group),
                                          std::memory_order_acquire));
    // The caller waits for this group, so what it wrote stays until that is done.
    call_(what_, group);
    num_unfinished_.fetch_sub(1, std::memory_order_release);
    return true;
  }

  [[noreturn]] void Help(int64_t thread) {
    using Clock = std::chrono::steady_clock;
    auto end = Clock::now() + kPatience;
    for (;;) {
      if (WorkOnOne(thread)) {
        end = Clock::now() + kPatience;
        continue;
      }
      Pause();
      if (Clock::now() < end) continue;
      std::unique_lock<std::mutex> lock(sleep_);
      ++num_asleep_;
      const int64_t num_calls = num_calls_;
      wake_.wait(lock, [&] {
        const bool has_work = open_.load() != 0 || num_calls_ != num_calls;
        return has_work && thread < num_threads_.load(std::memory_order_relaxed);
      });
      --num_asleep_;
      end = Clock::now() + kPatience;
    }
  }

  static constexpr std::chrono::microseconds kPatience{200};
  static constexpr int64_t kMostPauses = 1000;
  static constexpr int64_t kMostGroups = 64;  // bits of `open_`

  std::mutex in_use_;  // by one caller at a time
  int64_t num_helpers_ = 0;
  Call call_ = nullptr;
  const void* what_ = nullptr;
  std::atomic<uint64_t> open_{0};  // a bit for each group that nobody has taken
  std::atomic<int64_t> num_unfinished_{0};
  std::atomic<int64_t> num_threads_{0};
  std::mutex sleep_;
  std::condition_variable wake_;
  int64_t num_calls_ = 0;
  std::atomic<int64_t> num_asleep_{0};
};

}  // namespace fastrl
