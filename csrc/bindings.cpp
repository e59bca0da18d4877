// The module, and all of it but what networks.cpp and policies.cpp add: checks arguments, releases
// the GIL, calls the headers.

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "exchange.h"
#include "record.h"
#include "rows.h"
#include "sequences.h"
#include "shuffle.h"

using nb::literals::operator""_a;

namespace {

// Holds on to the arrays whose memory the recorder writes.
class Recorder {
 public:
  Recorder(handle obs, handle rewards, handle terminated, handle truncated, handle valid,
           handle episode_returns, handle episode_lengths, handle finished_returns,
           handle finished_lengths) {
    const auto sizes = ImportFirst<Output>(rewards, "rewards", kFloat32, 2, "[T, N]");
    const int64_t T = sizes.shape_ptr()[0], N = sizes.shape_ptr()[1];
    const auto obs_out = Import<Output>(obs, "obs");
    fastrl::RolloutView r{};
    r.num_steps = T;
    r.num_envs = N;
    r.obs_kind = KindOf(obs_out);
    obs_dtype_ = obs_out.dtype();
    Shape shape = {T + 1, N};
    for (size_t i = 2; i < obs_out.ndim(); ++i) shape.push_back(obs_out.shape_ptr()[i]);
    obs_shape_.assign(shape.begin() + 1, shape.end());
    r.obs = Keep<char>(obs, "obs", obs_dtype_, shape);
    r.obs_bytes = static_cast<int64_t>(obs_out.nbytes()) / ((T + 1) * N);
    r.rewards = Keep<float>(rewards, "rewards", kFloat32, {T, N});
    r.terminated = Keep<uint8_t>(terminated, "terminated", kBool, {T, N});
    r.truncated = Keep<uint8_t>(truncated, "truncated", kBool, {T, N});
    r.valid = Keep<uint8_t>(valid, "valid", kBool, {T + 1, N});
    r.episode_returns = Keep<double>(episode_returns, "episode_returns", kFloat64, {N});
    r.episode_lengths = Keep<int64_t>(episode_lengths, "episode_lengths", kInt64, {N});
    r.finished_returns = Keep<double>(finished_returns, "finished_returns", kFloat64, {T * N});
    r.finished_lengths = Keep<int64_t>(finished_lengths, "finished_lengths", kInt64, {T * N});
    recorder_ = fastrl::Recorder(r);
  }

  int64_t Record(int64_t t, int64_t first_env, handle obs, handle rewards, handle terminated,
                 handle truncated) {
    const auto rewards_in = ImportFirst<Input>(rewards, "rewards", kFloat32, 1, "[n]");
    const int64_t n = rewards_in.shape_ptr()[0];
    const fastrl::RolloutView& r = recorder_.rollout();
    if (t < 0 || t >= r.num_steps) Refuse("t: expected a step in [0, ", r.num_steps, "), got ", t);
    if (first_env < 0 || first_env > r.num_envs - n) {
      Refuse("first_env: expected ", n, " envs within [0, ", r.num_envs, "), got the first at ",
             first_env);
    }
    step_shape_[0] = obs_shape_[0] = n;
    const auto obs_in = ImportAs<Input>(obs, "obs", obs_dtype_, obs_shape_);
    const auto terminated_in = ImportAs<Input>(terminated, "terminated", kBool, step_shape_);
    const auto truncated_in = ImportAs<Input>(truncated, "truncated", kBool, step_shape_);
    const fastrl::StepView step{Data<const char>(obs_in), Data<const float>(rewards_in),
                                Data<const uint8_t>(terminated_in),
                                Data<const uint8_t>(truncated_in), n};
    nb::gil_scoped_release release;
    if (!recorder_.HasRoom(t, first_env, step)) {
      Refuse("finished_returns: expected room for more, call clear_finished()");
    }
    return recorder_.Record(t, first_env, step);
  }

  int64_t num_finished() const { return recorder_.num_finished(); }
  void ClearFinished() { recorder_.ClearFinished(); }

 private:
  template <typename Scalar>
  Scalar* Keep(handle object, const char* name, DType dtype, const Shape& shape) {
    arrays_.push_back(ImportAs<Output>(object, name, dtype, shape));
    return Data<Scalar>(arrays_.back());
  }

  std::vector<Output> arrays_;
  DType obs_dtype_;
  Shape obs_shape_;         // [n, *O], n set at each call: no allocation
  Shape step_shape_ = {0};  // [n]
  fastrl::Recorder recorder_{fastrl::RolloutView{}};
};

// Holds on to the arrays whose rows it copies.
class RowGather {
 public:
  RowGather(nb::sequence sources, nb::sequence outputs) {
    const size_t num_fields = nb::len(sources);
    if (num_fields == 0 || nb::len(outputs) != num_fields) {
      Refuse("outputs: expected one for each source and at least one, got ", nb::len(outputs),
             " for ", num_fields, " sources");
    }
    std::vector<fastrl::Field> fields;
    int64_t num_rows = -1, num_outputs = -1;
    for (size_t i = 0; i < num_fields; ++i) {
      const std::string suffix = "[" + std::to_string(i) + "]";
      auto source = Import<Input>(sources[i], "sources" + suffix);
      auto output = Import<Output>(outputs[i], "outputs" + suffix);
      if (source.ndim() == 0 || output.ndim() == 0) {
        Refuse("sources", suffix, ", outputs", suffix, ": expected rows, got a scalar");
      }
      // The first field sets the numbers of rows.
      if (i == 0) num_rows = source.shape_ptr()[0];
      if (i == 0) num_outputs = output.shape_ptr()[0];
      Shape shape = ShapeOf(source);
      shape[0] = num_rows;
      Require(source, "sources" + suffix, source.dtype(), shape);
      shape[0] = num_outputs;
      Require(output, "outputs" + suffix, source.dtype(), shape);
      const auto row_bytes = static_cast<int64_t>(source.nbytes()) / std::max<int64_t>(num_rows, 1);
      fields.push_back({Data<const char>(source), Data<char>(output), row_bytes});
      sources_.push_back(std::move(source));
      outputs_.push_back(std::move(output));
    }
    gather_ = fastrl::RowGather(std::move(fields), num_rows, num_outputs);
  }

  void Gather(handle indices) const {
    const auto rows = Import<Input>(indices, "indices");
    const bool fits = static_cast<int64_t>(rows.size()) == gather_.num_outputs();
    Require(rows, "indices", kInt64, fits ? ShapeOf(rows) : Shape{gather_.num_outputs()});
    const auto* data = Data<const int64_t>(rows);
    nb::gil_scoped_release release;
    const int64_t wrong = gather_.Gather(data);
    if (wrong < 0) return;
    Refuse("indices: expected rows in [0, ", gather_.num_rows(), "), got ", data[wrong]);
  }

 private:
  std::vector<Input> sources_;
  std::vector<Output> outputs_;
  fastrl::RowGather gather_{{}, 0, 0};
};

// Holds on to the memory that processes share.
class Exchange {
 public:
  Exchange(handle memory, int64_t rank, int64_t num_ranks, double spin_seconds) {
    memory_ = ImportFirst<Output>(memory, "memory", nb::dtype<uint8_t>(), 1, "[bytes]");
    if (num_ranks < 1) Refuse("num_ranks: expected at least 1, got ", num_ranks);
    if (rank < 0 || rank >= num_ranks) {
      Refuse("rank: expected one in [0, ", num_ranks, "), got ", rank);
    }
    const int64_t slot_bytes = fastrl::Exchange::SlotBytes(memory_.shape_ptr()[0], num_ranks);
    if (slot_bytes < 1) Refuse("memory: expected more bytes, got ", memory_.shape_ptr()[0]);
    exchange_ = fastrl::Exchange(Data<char>(memory_), rank, num_ranks, slot_bytes, spin_seconds);
  }

  int64_t slot_bytes() const { return exchange_.slot_bytes(); }

  bool Gather(handle own, handle all, double patience_seconds) {
    const auto own_in = ImportFirst<Input>(own, "own", nb::dtype<uint8_t>(), 1, "[K]");
    const int64_t num_bytes = own_in.shape_ptr()[0];
    if (num_bytes > slot_bytes()) {
      Refuse("own: expected at most ", slot_bytes(), " bytes, got ", num_bytes);
    }
    const Shape shape = {exchange_.num_ranks(), num_bytes};
    const auto all_out = ImportAs<Output>(all, "all", nb::dtype<uint8_t>(), shape);
    nb::gil_scoped_release release;
    return exchange_.Gather(Data<const char>(own_in), num_bytes, Data<char>(all_out),
                            patience_seconds);
  }

 private:
  Output memory_;
  fastrl::Exchange exchange_{nullptr, 0, 1, 0, 0.0};
};

int64_t ShuffledMinibatches(handle valid, handle seed, handle indices, handle weights) {
  const auto valid_in = ImportFirst<Input>(valid, "valid", kBool, 1, "[R]");
  const int64_t num_rows = valid_in.shape_ptr()[0];
  if (num_rows > int64_t{UINT32_MAX}) Refuse("valid: expected under 2**32 rows, got ", num_rows);
  const uint64_t seed_value = ImportSeed(seed);
  const auto indices_out = ImportFirst<Output>(indices, "indices", kInt64, 2, "[M, B]");
  const Shape shape = ShapeOf(indices_out);
  const auto weights_out = ImportAs<Output>(weights, "weights", kFloat32, shape);

  const auto* valid_data = Data<const uint8_t>(valid_in);
  const int64_t num_valid = fastrl::CountValid(valid_data, num_rows);
  if (num_valid == 0) Refuse("valid: expected at least one valid row, got none");
  if ((num_valid + shape[0] - 1) / shape[0] > shape[1]) {
    Refuse("indices: expected room for ", num_valid, " valid rows, got ", shape[0],
           " minibatches of ", shape[1]);
  }
  nb::gil_scoped_release release;
  fastrl::ShuffledMinibatches(valid_data, num_rows, num_valid, seed_value, shape[0], shape[1],
                              Data<int64_t>(indices_out), Data<float>(weights_out));
  return num_valid;
}

nb::tuple CutSequences(handle done, int64_t max_length) {
  const auto done_in = ImportFirst<Input>(done, "done", kBool, 2, "[T, N]");
  if (max_length < 1) Refuse("max_length: expected at least 1, got ", max_length);
  const int64_t T = done_in.shape_ptr()[0], N = done_in.shape_ptr()[1];
  const auto* data = Data<const uint8_t>(done_in);
  const auto S = static_cast<size_t>(fastrl::CountSequences(data, T, N, max_length));
  const auto env = NewTensor<int64_t>(S, {S});
  const auto start = NewTensor<int64_t>(S, {S});
  const auto length = NewTensor<int64_t>(S, {S});
  {
    nb::gil_scoped_release release;
    fastrl::CutSequences(data, T, N, max_length, env.data(), start.data(), length.data());
  }
  return nb::make_tuple(env, start, length);
}

nb::tuple SequenceGrid(handle env, handle start, handle length, int64_t num_envs,
                       int64_t max_length) {
  const auto env_in = ImportFirst<Input>(env, "env", kInt64, 1, "[S]");
  const auto S = env_in.shape(0);
  const auto start_in = ImportAs<Input>(start, "start", kInt64, ShapeOf(env_in));
  const auto length_in = ImportAs<Input>(length, "length", kInt64, ShapeOf(env_in));
  if (num_envs < 1) Refuse("num_envs: expected at least 1, got ", num_envs);
  if (max_length < 1) Refuse("max_length: expected at least 1, got ", max_length);
  const auto *e = Data<const int64_t>(env_in), *s = Data<const int64_t>(start_in),
             *l = Data<const int64_t>(length_in);
  const int64_t bad = fastrl::FirstBadSequence(e, s, l, S, num_envs, max_length);
  if (bad >= 0) {
    Refuse("sequence ", bad, ": expected env in [0, ", num_envs, "), start >= 0 and length in [1, ",
           max_length, "], got env ", e[bad], ", start ", s[bad], ", length ", l[bad]);
  }
  const auto L = static_cast<size_t>(max_length);
  const auto indices = NewTensor<int64_t>(L * S, {L, S});
  const auto mask = NewTensor<bool>(L * S, {L, S});
  {
    nb::gil_scoped_release release;
    fastrl::SequenceGrid(e, s, l, S, num_envs, max_length, indices.data(), mask.data());
  }
  return nb::make_tuple(indices, mask);
}

}  // namespace

// kernels/extension.py expects the same number: to be counted up with each change of what the
// module offers, so that a build from before it is not used.
constexpr int kVersion = 2;

void BindNetworks(nb::module_& m);  // networks.cpp
void BindPolicies(nb::module_& m);  // policies.cpp

NB_MODULE(_C, m) {
  nb::set_leak_warnings(false);  // the process may leave its memory to the system as it ends
  m.doc() = "What fastrl does in C++; the file that calls an operation documents it.";
  m.attr("VERSION") = kVersion;
  nb::class_<Recorder>(m, "Recorder")
      .def(nb::init<handle, handle, handle, handle, handle, handle, handle, handle, handle>(),
           "obs"_a, "rewards"_a, "terminated"_a, "truncated"_a, "valid"_a, "episode_returns"_a,
           "episode_lengths"_a, "finished_returns"_a, "finished_lengths"_a)
      .def("record", &Recorder::Record, "t"_a, "first_env"_a, "obs"_a, "rewards"_a, "terminated"_a,
           "truncated"_a)
      .def_prop_ro("num_finished", &Recorder::num_finished)
      .def("clear_finished", &Recorder::ClearFinished);
  nb::class_<RowGather>(m, "RowGather")
      .def(nb::init<nb::sequence, nb::sequence>(), "sources"_a, "outputs"_a)
      .def("gather", &RowGather::Gather, "indices"_a);
  nb::class_<Exchange>(m, "Exchange")
      .def(nb::init<handle, int64_t, int64_t, double>(), "memory"_a, "rank"_a, "num_ranks"_a,
           "spin_seconds"_a)
      .def_prop_ro("slot_bytes", &Exchange::slot_bytes)
      .def("gather", &Exchange::Gather, "own"_a, "all"_a, "patience_seconds"_a);
  m.def("shuffled_minibatches", &ShuffledMinibatches, "valid"_a, "seed"_a, "indices"_a,
        "weights"_a);
  m.def("cut_sequences", &CutSequences, "done"_a, "max_length"_a);
  m.def("sequence_grid", &SequenceGrid, "env"_a, "start"_a, "length"_a, "num_envs"_a,
        "max_length"_a);
  BindNetworks(m);
  BindPolicies(m);
}
