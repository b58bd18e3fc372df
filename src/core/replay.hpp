#pragma once
// Bodies of ops that come again with the same tensors: called the first time, recorded the second
// time, played from then on. A device then needs no call an op.

#include <map>

#include "core/exec.hpp"

namespace strata {

class Replays {
 public:
  using Recorder = std::function<std::unique_ptr<Recording>(const std::function<void()>& body)>;
  static constexpr std::size_t most = 16;

  /// enabled = false: bodies are always called.
  explicit Replays(Exec& exec, bool enabled = true)
      : Replays(exec.arena, enabled, [&exec](const auto& body) { return exec.record(body); }) {}
  /// Bodies beyond `most` recordings are called.
  Replays(Arena& arena, bool enabled, Recorder record)
      : arena_(arena), enabled_(enabled), record_(std::move(record)) {}

  /// Bodies of one key call the same ops on the same tensors, the arena standing where it stood.
  /// What differs between runs lies in those tensors. False where the body was not called: what it
  /// does on the host is then the caller's to make up for.
  bool run(std::int64_t key, const std::function<void()>& body);

  std::size_t recordings() const { return recordings_; }

 private:
  struct Entry {
    bool called = false;
    Arena::Mark mark;
    std::unique_ptr<Recording> recording;
  };
  Arena& arena_;
  bool enabled_;
  Recorder record_;
  std::size_t recordings_ = 0;
  std::map<std::int64_t, Entry> entries_;
};

}  // namespace strata
