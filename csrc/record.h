// One vector step becomes one row of the rollout, and episodes are counted as they end.
//
// Next-step autoreset: the row after a done row is the reset row. It is stored like any other,
// marked not valid, and counted nowhere.

#pragma once

#include <cstdint>
#include <cstring>

namespace fastrl {

enum class ObsKind { kInteger, kFloat32, kFloat64 };

constexpr uint32_t kExponentFloat32 = 0x7F800000u;
constexpr uint64_t kExponentFloat64 = 0x7FF0000000000000u;

// True if no value is NaN or infinite, that is, if no exponent is all ones: adding one to such an
// exponent carries into the sign bit. Without a branch or a comparison, the loop runs in vectors.
template <typename Bits, Bits kExponent>
bool AllFinite(const void* values, int64_t count) {
  constexpr Bits kOne = kExponent & (~kExponent + 1);
  constexpr Bits kSign = ~(~Bits{0} >> 1);
  const char* bytes = static_cast<const char*>(values);
  Bits carry = 0;
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, bytes + i * sizeof(Bits), sizeof(Bits));
    carry |= (bits & kExponent) + kOne;
  }
  return (carry & kSign) == 0;
}

// The preallocated rollout. Bools are bytes of 0 or 1.
struct RolloutView {
  char* obs;                  // [T + 1, N, obs_bytes]
  float* rewards;             // [T, N]
  uint8_t* terminated;        // [T, N]
  uint8_t* truncated;         // [T, N]
  uint8_t* valid;             // [T + 1, N]
  double* episode_returns;    // [N], of the episodes under way
  int64_t* episode_lengths;   // [N]
  double* finished_returns;   // [T * N], of the episodes that ended, oldest first
  int64_t* finished_lengths;  // [T * N]
  int64_t num_steps;          // T
  int64_t num_envs;           // N
  int64_t obs_bytes;          // of one observation
  ObsKind obs_kind;
};

// What `num_envs` neighbouring environments returned for one step.
struct StepView {
  const char* obs;            // [num_envs, obs_bytes]
  const float* rewards;       // [num_envs]
  const uint8_t* terminated;  // [num_envs]
  const uint8_t* truncated;   // [num_envs]
  int64_t num_envs;
};

class Recorder {
 public:
  explicit Recorder(const RolloutView& rollout) : rollout_(rollout) {}

  const RolloutView& rollout() const { return rollout_; }
  int64_t num_finished() const { return num_finished_; }
  void ClearFinished() { num_finished_ = 0; }

  // Whether the episodes that end in this step still fit into the finished ones.
  bool HasRoom(int64_t t, int64_t first_env, const StepView& step) const {
    const int64_t room = rollout_.num_steps * rollout_.num_envs - num_finished_;
    if (step.num_envs <= room) return true;
    const uint8_t* valid = rollout_.valid + t * rollout_.num_envs + first_env;
    int64_t num_ending = 0;
    for (int64_t i = 0; i < step.num_envs; ++i) {
      num_ending += valid[i] && (step.terminated[i] || step.truncated[i]);
    }
    return num_ending <= room;
  }

  // Writes what action t caused in the envs [first_env, first_env + step.num_envs). Returns -1, or
  // the first env with a reward or an observation that is not finite. The caller has checked the
  // ranges.
  int64_t Record(int64_t t, int64_t first_env, const StepView& step) {
    const RolloutView& r = rollout_;
    const int64_t n = step.num_envs;
    const int64_t row = t * r.num_envs + first_env;
    const int64_t next_row = row + r.num_envs;
    std::memcpy(r.obs + next_row * r.obs_bytes, step.obs, n * r.obs_bytes);
    std::memcpy(r.rewards + row, step.rewards, n * sizeof(float));
    std::memcpy(r.terminated + row, step.terminated, n);
    std::memcpy(r.truncated + row, step.truncated, n);
    for (int64_t i = 0; i < n; ++i) {
      const bool done = step.terminated[i] || step.truncated[i];
      r.valid[next_row + i] = !done;
      if (r.valid[row + i]) CountStep(first_env + i, step.rewards[i], done);
    }
    return FirstNotFinite(first_env, step);
  }

 private:
  void CountStep(int64_t env, float reward, bool done) {
    RolloutView& r = rollout_;
    r.episode_returns[env] += reward;
    r.episode_lengths[env] += 1;
    if (!done) return;
    r.finished_returns[num_finished_] = r.episode_returns[env];
    r.finished_lengths[num_finished_] = r.episode_lengths[env];
    ++num_finished_;
    r.episode_returns[env] = 0.0;
    r.episode_lengths[env] = 0;
  }

  bool IsFinite(const StepView& step, int64_t begin, int64_t count) const {
    const char* obs = step.obs + begin * rollout_.obs_bytes;
    const int64_t bytes = count * rollout_.obs_bytes;
    if (!AllFinite<uint32_t, kExponentFloat32>(step.rewards + begin, count)) return false;
    if (rollout_.obs_kind == ObsKind::kFloat32) {
      return AllFinite<uint32_t, kExponentFloat32>(obs, bytes / 4);
    }
    if (rollout_.obs_kind == ObsKind::kFloat64) {
      return AllFinite<uint64_t, kExponentFloat64>(obs, bytes / 8);
    }
    return true;
  }

  int64_t FirstNotFinite(int64_t first_env, const StepView& step) const {
    if (IsFinite(step, 0, step.num_envs)) return -1;
    int64_t i = 0;
    while (IsFinite(step, i, 1)) ++i;
    return first_env + i;
  }

  RolloutView rollout_;
  int64_t num_finished_ = 0;
};

}  // namespace fastrl
