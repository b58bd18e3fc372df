#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>
#include <unordered_map>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/progress.hpp"
#include "data/file_handle.hpp"
#include "data/image.hpp"
#include "data/index.hpp"
#include "data/index_sources.hpp"

namespace strata {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t max_encoded_bytes = std::int64_t{1} << 30;

std::string read_encoded(const Candidate& candidate) {
  if (candidate.member.empty()) return read_file(candidate.file, max_encoded_bytes);
  if (candidate.bytes < 0 || candidate.bytes > max_encoded_bytes)
    fail(Exit::data, "{} bytes are too many for an image", candidate.bytes);
  std::string bytes(static_cast<std::size_t>(candidate.bytes), '\0');
  FileHandle::open_for_reading(candidate.file)
      .read_at(static_cast<std::uint64_t>(candidate.offset),
               std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

/// Fills in `problem` when the image cannot be used.
void check_image(Candidate& candidate) {
  if (!candidate.problem.empty() || candidate.file.empty()) return;
  try {
    candidate.problem = decode_image(read_encoded(candidate)).error;
  } catch (const Error& e) {
    if (e.code() != Exit::data) throw;
    candidate.problem = e.what();
  }
}

int usable_threads(int asked) {
  if (asked > 0) return asked;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(CPU_COUNT(&set), 1);
}

/// The images of one chunk, each decoded once.
void check_images(std::vector<Candidate>& chunk, int threads) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::atomic<bool> failed{false};
  const auto work = [&] {
    try {
      for (std::size_t i; (i = next++) < chunk.size() && !failed;) check_image(chunk[i]);
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> workers;
    for (int t = 1; t < threads; ++t) workers.emplace_back(work);
    work();
  }
  if (failure) std::rethrow_exception(failure);
}

/// A file under a temporary name until `publish`.
class LineFile {
 public:
  explicit LineFile(std::string path)
      : path_(std::move(path)), file_(temporary(), std::ios::binary) {
    if (!file_) fail(Exit::cannot_create, "{}: cannot be created", temporary());
  }
  ~LineFile() {
    std::error_code error;
    if (!published_) fs::remove(temporary(), error);
  }
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;
  void add(const std::string& line) { file_ << line << '\n'; }
  void publish() {
    file_.close();
    if (!file_) fail(Exit::io, "{}: write failed", temporary());
    sync_path(temporary());
    if (std::rename(temporary().c_str(), path_.c_str()) != 0) fail_errno(path_, "rename", true);
    published_ = true;
    sync_path(fs::absolute(path_).parent_path().string());
  }

 private:
  std::string temporary() const { return path_ + ".partial"; }
  std::string path_;
  std::ofstream file_;
  bool published_ = false;
};

/// Collects candidates into chunks, checks them, and writes both lists in order.
class Builder {
 public:
  explicit Builder(const IndexOptions& options)
      : out_(options.out),
        skipped_(skipped_path(options)),
        folder_(fs::weakly_canonical(fs::absolute(options.out)).parent_path()),
        threads_(usable_threads(options.threads)),
        progress_("index", 0, "samples") {}

  void add(Candidate candidate) {
    chunk_.push_back(std::move(candidate));
    if (chunk_.size() == 1024) flush();
  }

  IndexReport finish(const IndexOptions& options) {
    flush();
    progress_.finish();
    skipped_.publish();
    const std::int64_t all = report_.samples + report_.skipped;
    if (all == 0) fail(Exit::data, "{}: no samples found", options.inputs.front());
    if (static_cast<double>(report_.skipped) > options.max_bad * static_cast<double>(all))
      fail(Exit::data,
           "{} of {} samples cannot be used, more than --max-bad {} allows (see {}); the first: {}",
           report_.skipped, all, options.max_bad, skipped_path(options), first_problem_);
    if (report_.samples == 0)
      fail(Exit::data, "{}: every sample was skipped", options.inputs.front());
    out_.publish();
    return report_;
  }

 private:
  static std::string skipped_path(const IndexOptions& options) {
    if (!options.skipped.empty()) return options.skipped;
    return (fs::path(options.out).parent_path() / "skipped.jsonl").string();
  }

  /// Relative to the index, so that index and pictures can move together.
  std::string stored_name(const Candidate& candidate) {
    if (candidate.file.empty()) return {};
    const fs::path file = fs::absolute(candidate.file).lexically_normal();
    auto [known, added] = folders_.try_emplace(file.parent_path().string());
    if (added)
      known->second = fs::weakly_canonical(file.parent_path()).lexically_relative(folder_).string();
    const std::string name =
        (fs::path(known->second) / file.filename()).lexically_normal().string();
    return candidate.member.empty() ? name : name + "::" + candidate.member;
  }

  void write(const Candidate& candidate) {
    Json line;
    const std::string image = stored_name(candidate);
    line["image"] = image.empty() ? Json() : Json(image);
    line["caption"] = candidate.captions.front();
    line["captions"] = candidate.captions;
    if (!candidate.member.empty()) {
      line["offset"] = candidate.offset;
      line["bytes"] = candidate.bytes;
    }
    out_.add(line.dump());
    ++report_.samples;
  }

  void skip(const Candidate& candidate, const std::string& reason) {
    const Json line{{"image", candidate.name()}, {"reason", reason}};
    skipped_.add(line.dump(-1, ' ', false, Json::error_handler_t::replace));
    if (report_.skipped++ == 0) first_problem_ = candidate.name() + ": " + reason;
  }

  void flush() {
    check_images(chunk_, threads_);
    for (const Candidate& candidate : chunk_) {
      if (!candidate.problem.empty()) {
        skip(candidate, candidate.problem);
        continue;
      }
      try {
        write(candidate);
      } catch (const Json::type_error&) {
        skip(candidate, "the caption or the name is not valid UTF-8");
      }
    }
    chunk_.clear();
    progress_.update(report_.samples + report_.skipped);
  }

  LineFile out_, skipped_;
  fs::path folder_;
  int threads_;
  Progress progress_;
  std::vector<Candidate> chunk_;
  std::unordered_map<std::string, std::string> folders_;
  IndexReport report_;
  std::string first_problem_;
};

}  // namespace

IndexReport build_index(const IndexOptions& options) {
  if (options.inputs.empty()) fail(Exit::usage, "strata index: no input (--images or --input)");
  if (!(options.max_bad >= 0 && options.max_bad <= 1))
    fail(Exit::usage, "--max-bad {}: must lie in [0, 1]", options.max_bad);
  Builder builder(options);
  for (const std::string& input : options.inputs)
    list_candidates(input, options.images,
                    [&](Candidate candidate) { builder.add(std::move(candidate)); });
  return builder.finish(options);
}

}  // namespace strata
