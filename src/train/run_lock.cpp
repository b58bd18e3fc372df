#include "train/run_lock.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <random>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "core/log.hpp"
#include "core/process.hpp"

namespace strata {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view prefix = "epoch-", suffix = ".json";
constexpr std::uint64_t most_bytes = 1 << 16;

/// What an epoch's file says. Members that are missing or malformed are empty: such an owner can
/// only be judged by its heartbeats.
struct Owner {
  std::string host, boot, pids, job;
  std::int64_t pid = 0, restart = 0;
  std::uint64_t started = 0;
  bool ended = false;

  std::string described() const {
    return fmt::format("process {} on {}{}", pid, host.empty() ? "an unnamed host" : host,
                       job.empty() ? "" : fmt::format(", Slurm job {} start {}", job, restart));
  }
};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::int64_t as_integer(const std::string& text) {
  std::int64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

nlohmann::ordered_json identity() {
  const std::string array = environment("SLURM_ARRAY_JOB_ID");
  const std::string job = array.empty() ? environment("SLURM_JOB_ID")
                                        : array + "_" + environment("SLURM_ARRAY_TASK_ID");
  nlohmann::ordered_json j;
  j["nonce"] = fmt::format("{:08x}{:08x}", std::random_device()(), std::random_device()());
  j["host"] = host_name();
  j["boot"] = boot_id();
  j["pids"] = pid_namespace();
  j["pid"] = static_cast<std::int64_t>(getpid());
  j["started"] = state_of_process(getpid()).start;
  j["job"] = job;
  j["restart"] = as_integer(environment("SLURM_RESTART_COUNT"));
  return j;
}

template <class T>
T member(const nlohmann::json& json, const char* key) {
  const auto it = json.find(key);
  if (it == json.end()) return {};
  if constexpr (std::is_same_v<T, std::string>)
    return it->is_string() ? it->template get<T>() : T();
  else if constexpr (std::is_same_v<T, bool>)
    return it->is_boolean() && it->template get<T>();
  else
    return it->is_number_integer() ? it->template get<T>() : T();
}

Owner parse_owner(const std::string& text) {
  nlohmann::json json;
  try {
    json = parse_json(text, "", 4);
  } catch (const Error&) {
    return {};  // being written, or torn
  }
  if (!json.is_object()) return {};
  return {member<std::string>(json, "host"),      member<std::string>(json, "boot"),
          member<std::string>(json, "pids"),      member<std::string>(json, "job"),
          member<std::int64_t>(json, "pid"),      member<std::int64_t>(json, "restart"),
          member<std::uint64_t>(json, "started"), member<bool>(json, "ended")};
}

enum class Life { unknown, gone, alive };

/// What is certain of an owner without waiting for its heartbeats. One that is stopped may never
/// go on.
Life life_of(const Owner& owner, const Owner& me) {
  if (owner.ended) return Life::gone;
  if (!me.job.empty() && owner.job == me.job && owner.restart < me.restart) return Life::gone;
  const bool askable =
      !owner.boot.empty() && owner.boot == me.boot && !owner.pids.empty() && owner.pids == me.pids;
  if (!askable) return Life::unknown;
  const ProcessState process = state_of_process(owner.pid);
  if (process.start != owner.started) return Life::gone;
  return process.goes_on ? Life::alive : Life::unknown;
}

constexpr std::string_view folder_name = "/.owner";

std::string file_of(const std::string& folder, std::int64_t epoch) {
  return fmt::format("{}/{}{:08}{}", folder, prefix, epoch, suffix);
}

/// Epochs that have a file, in no order.
std::vector<std::int64_t> epochs_in(const std::string& folder) {
  std::vector<std::int64_t> epochs;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.starts_with(prefix) && name.ends_with(suffix))
      epochs.push_back(as_integer(name.substr(prefix.size())));
  }
  if (error) fail(Exit::io, "{}: {}", folder, error.message());
  return epochs;
}

std::int64_t highest_epoch(const std::string& folder) {
  std::int64_t highest = 0;
  for (const std::int64_t epoch : epochs_in(folder)) highest = std::max(highest, epoch);
  return highest;
}

/// Empty when the file is not there (an owner removes the epochs before its own).
std::string content_of(const std::string& path) {
  try {
    return read_file(path, most_bytes);
  } catch (const Error& error) {
    if (error.code() == Exit::data) return "";
    throw;
  }
}

/// In place, and closed: only then does a network file system show it to others. Not synced: after
/// a crash of the machine the owner is gone anyway.
bool write_over(const std::string& path, const std::string& content, int flags) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0666);
  if (fd < 0) return false;
  const bool written = write_fully_at(fd, content, 0);
  return ::close(fd) == 0 && written;
}

/// Blank-padded to one length, so that a shorter content leaves nothing of a longer one behind.
std::string beat_text(const std::string& identity, std::uint64_t beats, bool ended) {
  auto json = nlohmann::ordered_json::parse(identity);
  json["beats"] = beats;
  json["ended"] = ended;
  std::string text = json.dump();
  text.resize(std::max<std::size_t>(text.size(), 2047), ' ');
  return text + "\n";
}

}  // namespace

RunLock::RunLock(const std::string& dir, LockTiming timing)
    : folder_(dir + std::string(folder_name)),
      timing_(timing),
      identity_(identity().dump()),
      looked_(Clock::now()) {
  make_directories(folder_);
  const Owner me = parse_owner(identity_);
  std::int64_t watched = 0;
  std::string seen;
  Clock::time_point since;
  while (epoch_ == 0) {
    const std::int64_t last = highest_epoch(folder_);
    const std::string content = last > 0 ? content_of(file_of(folder_, last)) : "";
    const Owner owner = parse_owner(content);
    const Life life = last == 0 ? Life::gone : life_of(owner, me);
    if (life == Life::gone) {
      take_over(last);
      continue;
    }
    // The second look, because a job that was ended a moment ago may still be seen at the first.
    if (last == watched && (life == Life::alive || content != seen))
      fail(Exit::owned, "{}: owned by a live job: {}", dir, owner.described());
    if (last != watched) {
      log::info("{}: {} may own it: waiting for a sign of life", dir, owner.described());
      watched = last;
      seen = content;
      since = Clock::now();
    } else if (Clock::now() - since > timing_.lease) {
      log::warn("{}: {} gave no sign of life for {} s: taken over", dir, owner.described(),
                std::chrono::duration_cast<std::chrono::seconds>(timing_.lease).count());
      take_over(last);
      continue;
    }
    std::this_thread::sleep_for(timing_.heartbeat / 4);
  }
  for (const std::int64_t epoch : epochs_in(folder_))
    if (epoch < epoch_) ::unlink(file_of(folder_, epoch).c_str());
  heart_ = std::thread([this] { beat(); });
}

RunLock::~RunLock() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_one();
  heart_.join();
  write_over(file_of(folder_, epoch_), beat_text(identity_, beats_ + 1, true), 0);
}

/// Makes the epoch behind `last`, unless another job was faster.
void RunLock::take_over(std::int64_t last) {
  const std::string path = file_of(folder_, last + 1);
  if (!write_over(path, beat_text(identity_, 0, false), O_CREAT | O_EXCL)) {
    if (errno != EEXIST) fail_errno(path, "open", true);
    return;
  }
  // Whoever slept since it saw `last` may have made an epoch that has come and gone.
  if (highest_epoch(folder_) == last + 1)
    epoch_ = last + 1;
  else
    ::unlink(path.c_str());
}

std::string RunLock::file(const std::string& dir, std::int64_t epoch) {
  return file_of(dir + std::string(folder_name), epoch);
}

void RunLock::beat() {
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, timing_.heartbeat, [this] { return ending_; })) {
    // A failure is not the run's: the file system may be back with the next beat, and a file that
    // is gone says that another job has taken over.
    write_over(file_of(folder_, epoch_), beat_text(identity_, ++beats_, false), 0);
  }
}

void RunLock::confirm() {
  {
    const std::lock_guard lock(mutex_);
    if (Clock::now() - looked_ <= timing_.heartbeat) return;
  }
  confirm_now();
}

void RunLock::confirm_now() {
  const std::int64_t highest = highest_epoch(folder_);
  if (highest != epoch_)
    fail(Exit::owned, "{}: epoch {} was taken over by epoch {}: {}", folder_, epoch_, highest,
         parse_owner(content_of(file_of(folder_, highest))).described());
  const std::lock_guard lock(mutex_);
  looked_ = Clock::now();
}

}  // namespace strata
