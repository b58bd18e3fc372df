#include "evaluate/journal.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"

namespace strata {

namespace {

namespace fs = std::filesystem;

constexpr const char *plan_file = "/plan.json", *lock_file = "/lock";

std::uint32_t checksum(const std::string& json) {
  return crc32c(0, json.data(), json.size());
}

/// "CRC [row,text]"
std::string to_line(std::size_t row, const std::string& text) {
  const std::string json = nlohmann::json::array({row, text}).dump();
  return fmt::format("{:08x} {}\n", checksum(json), json);
}

/// False for a line that is torn or damaged.
bool parse_line(std::string_view line, std::size_t& row, std::string& text) {
  constexpr std::size_t head = 9;
  if (line.size() <= head) return false;
  const std::string json(line.substr(head));
  if (line.substr(0, head) != fmt::format("{:08x} ", checksum(json))) return false;
  const auto value = nlohmann::json::parse(json, nullptr, false);
  if (!value.is_array() || value.size() != 2 || !value[0].is_number_unsigned() ||
      !value[1].is_string())
    return false;
  row = value[0].get<std::size_t>();
  text = value[1].get<std::string>();
  return true;
}

}  // namespace

void JournalFolder::prepare(const std::string& plan, bool overwrite) {
  make_directories(dir_);
  lock_ = FileLock(dir_ + lock_file, dir_);
  if (file_exists(dir_ + plan_file)) {
    if (read_file(dir_ + plan_file) == plan) return;
    if (!overwrite)
      fail(Exit::cannot_create,
           "{}: holds unfinished work of other settings; finish that, or --overwrite", dir_);
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(dir_))
      if (entry.path().filename() != lock_file + 1) fs::remove_all(entry.path(), error);
  }
  write_file_atomically(dir_ + plan_file, plan);
}

void JournalFolder::read(const std::function<void(std::size_t, std::string&&)>& take) const {
  for (const auto& entry : fs::directory_iterator(dir_)) {
    if (entry.path().extension() != ".journal") continue;
    const std::string content = read_file(entry.path().string(), std::uint64_t{1} << 40);
    for (std::size_t begin = 0; begin < content.size();) {
      const std::size_t end = content.find('\n', begin);
      if (end == std::string::npos) break;  // torn
      std::size_t row = 0;
      std::string text;
      if (parse_line(std::string_view(content).substr(begin, end - begin), row, text))
        take(row, std::move(text));
      begin = end + 1;
    }
  }
}

void JournalFolder::remove() const {
  std::error_code error;
  fs::remove_all(dir_, error);
  if (error) fail(Exit::io, "{}: cannot remove: {}", dir_, error.message());
}

Journal::Journal(const JournalFolder& folder, int rank) {
  int number = 0;
  std::string path;
  do path = fmt::format("{}/rank-{}-{}.journal", folder.path(), rank, number++);
  while (file_exists(path));
  write_file_atomically(path, "");
  file_ = std::make_unique<FileHandle>(FileHandle::open_for_writing(path));
}

void Journal::append(std::size_t row, const std::string& text) {
  const std::string line = to_line(row, text);
  file_->write_at(size_, std::as_bytes(std::span(line)));
  size_ += line.size();
}

}  // namespace strata
