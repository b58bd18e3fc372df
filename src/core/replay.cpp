#include "core/replay.hpp"

namespace strata {

bool Replays::run(std::int64_t key, const std::function<void()>& body) {
  if (!enabled_) {
    body();
    return true;
  }
  Entry& entry = entries_[key];
  if (entry.recording) {
    STRATA_CHECK(entry.mark == arena_.mark(),
                 "recorded at another height of the arena than it is played at");
    entry.recording->play();
    return false;
  }
  // The first call makes plans, loads kernels and lets the arena grow, which a recording cannot.
  if (!entry.called || recordings_ == most) {
    entry.called = true;
    body();
    return true;
  }
  entry.mark = arena_.mark();
  entry.recording = record_(body);
  if (!entry.recording) return true;  // the host did the ops
  ++recordings_;
  entry.recording->play();
  return true;
}

}  // namespace strata
