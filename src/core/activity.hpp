#pragma once
// What this process is doing, in memory that another process can read: for whoever wants to know
// why a rank stands still (dist/monitor.hpp), also when it can no longer say so itself.
//
// Announcing costs a relaxed atomic store or two; without a monitor it goes to memory that nobody
// reads.

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace strata::activity {

/// What the main thread is at. Order and names: `name_of`.
enum class Section : int { start, load, data, step, update, verify, validate, samples, save, end };
constexpr int sections = static_cast<int>(Section::end) + 1;
const char* name_of(Section section);
/// Sections that may be silent for long: they read or write a lot, or compute what is rare.
bool is_slow(Section section);

enum class Collective : int {
  none,
  barrier,
  broadcast,
  sum,
  max,
  reduce_scatter,
  all_gather,
  gather_strings,
  thread,  // the main thread waits for one that communicates
};
const char* name_of(Collective collective);

/// Who communicates. Threads that were not told are `other`.
enum class Thread : int { main, gradients, checkpoint, other };
constexpr int threads = 4;

enum class Life : int { absent, running, failing, ended };

/// One rank. Written by its process alone.
struct alignas(128) Slot {
  std::atomic<Life> life{Life::absent};
  std::atomic<int> rank{0}, pid{0};
  std::atomic<int> stop_signal{0};  // this rank was asked to stop
  std::atomic<Section> section{Section::start};
  std::atomic<std::int64_t> step{0}, steps{0};  // its number; how many this process has begun
  struct Channel {
    std::atomic<std::uint64_t> beats{0};       // signs of life
    std::atomic<std::uint64_t> collective{0};  // how many were begun
    std::atomic<Collective> waits_in{Collective::none};
  } channels[threads];

  /// Grows while the rank makes progress. What a checkpoint's thread does is not the rank's.
  std::uint64_t progress() const;
};

constexpr int most_ranks = 256;  // of a node
constexpr std::size_t most_path = 4096;

/// What the ranks of a node and their monitor share.
struct Board {
  /// Silence that is a hang, in milliseconds; 0: none is.
  std::atomic<std::int64_t> limit_ms{0};
  /// Where last words go, as soon as the run folder is this job's.
  std::atomic<bool> has_paths{false};
  char note[most_path] = "";   // exit.json
  char log[most_path] = "";    // who did what when a rank hung
  char claim[most_path] = "";  // a file that goes when another job takes the folder over
  Slot slots[most_ranks];
};

/// The board of this process: its own until `use`.
Board& board();
Slot& slot();
/// From now on what is announced goes to slot `index` of a shared board, which outlives the
/// process.
void use(Board& shared, int index);

void begin(int rank);         // life is running; the calling thread is `main`
void set_life(Life life);     // the last thing: failing or ended
void set_thread(Thread who);  // the calling thread
void enter(Section section);
void at_step(std::int64_t step);
/// A sign of life of the calling thread.
void beat();
/// Where last words go; see Board.
void set_paths(const char* note, const char* log, const char* claim);

/// The calling thread is in a collective as long as this lives.
class Waits {
 public:
  explicit Waits(Collective collective);
  ~Waits();
  Waits(const Waits&) = delete;
  Waits& operator=(const Waits&) = delete;

 private:
  Slot::Channel& channel_;
  Collective before_;
};

}  // namespace strata::activity
