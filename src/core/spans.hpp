#pragma once
// What the threads of this process did, and when: named spans of time, for traces and profiles.
//
//   spans::Span span("down_blocks.0", "forward");   // until the end of the scope
//
// Nothing is kept until `start`: a span is then one look at a flag. On a device a span is the time
// that the host took to call the ops, not the time that they took.

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace strata::spans {

/// [begin, end) in nanoseconds of the steady clock. Spans of one thread contain each other or are
/// apart.
struct Event {
  std::string name;
  const char* kind;  // a literal
  std::int64_t begin, end;
  double flops = 0, bytes = 0;  // as far as it said
};

/// One thread, in the order in which its spans ended: what a span contains comes before it.
struct Lane {
  std::string thread;
  std::vector<Event> events;
  std::int64_t left_out = 0;  // events beyond `most_events`
};

/// Events that a thread keeps.
constexpr std::size_t most_events = std::size_t{1} << 20;

/// Nanoseconds of the steady clock.
std::int64_t now();
/// Names the calling thread (a literal); "main" where nothing was said.
void name_thread(const char* name);
/// From now on spans that begin are kept.
void start();
/// What was kept since `start`: lanes in the order of their first span. Spans that have not ended
/// are not among them.
std::vector<Lane> stop();

namespace detail {
// One a process, like the log: what takes time may be anywhere.
inline std::atomic<bool> kept{false};
void keep(Event&& event);
}  // namespace detail

inline bool are_kept() {
  return detail::kept.load(std::memory_order_relaxed);
}

class Span {
 public:
  /// kind: a literal. index: added to the name where it is not negative.
  Span(std::string_view name, const char* kind, std::int64_t index = -1) {
    if (are_kept()) [[unlikely]]
      begin(name, kind, index);
  }
  ~Span() {
    if (is_kept()) [[unlikely]]
      detail::keep(std::move(event_));
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

  bool is_kept() const { return event_.begin >= 0; }
  /// What it does: operations, and bytes of memory read and written.
  void add_work(double flops, double bytes) {
    event_.flops += flops;
    event_.bytes += bytes;
  }

 private:
  void begin(std::string_view name, const char* kind, std::int64_t index);

  Event event_{.kind = nullptr, .begin = -1, .end = -1};
};

/// The lanes of one process in a trace.
struct ProcessLanes {
  int process = 0;  // sorted by it
  std::string name;
  std::int64_t zero = 0;  // the clock where the trace's time begins
  std::vector<Lane> lanes;
};
/// Chrome's trace event format (chrome://tracing, Perfetto): the events of one process, comma
/// separated, without the array around them.
std::string trace_events(const ProcessLanes& process);
/// A whole trace of what `trace_events` gave for each process.
std::string trace_of(const std::vector<std::string>& events);

}  // namespace strata::spans
