#include "data/index.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"
#include "data/file_handle.hpp"

namespace strata {

namespace {

constexpr std::int64_t max_encoded_bytes = std::int64_t{1} << 30;

[[noreturn]] void refuse(const std::string& where, const char* what) {
  fail(Exit::data, "{}: {}", where, what);
}

IndexEntry parse_entry(std::string_view line, const std::string& where) {
  const nlohmann::json json = parse_json(line, where);
  if (!json.is_object()) refuse(where, "not a JSON object");
  IndexEntry entry;
  const auto image = json.find("image");
  if (image != json.end() && !image->is_null()) {
    if (!image->is_string()) refuse(where, "key image is not a string");
    entry.image = image->get<std::string>();
  }
  const auto captions = json.find("captions");
  if (captions != json.end()) {
    if (!captions->is_array()) refuse(where, "key captions is not an array");
    for (const auto& caption : *captions) {
      if (!caption.is_string()) refuse(where, "key captions holds what is not a string");
      entry.captions.push_back(caption.get<std::string>());
    }
  }
  const auto caption = json.find("caption");
  if (caption == json.end() || !caption->is_string()) refuse(where, "key caption is not a string");
  entry.caption = caption->get<std::string>();
  if (entry.captions.empty()) entry.captions.push_back(entry.caption);
  for (auto [key, value] : {std::pair{"offset", &entry.offset}, {"bytes", &entry.bytes}}) {
    const auto found = json.find(key);
    if (found == json.end()) continue;
    if (!found->is_number_unsigned() || found->get<std::uint64_t>() > (std::uint64_t{1} << 60))
      fail(Exit::data, "{}: key {} is not a count", where, key);
    *value = found->get<std::int64_t>();
  }
  const bool in_shard = entry.image.find("::") != std::string::npos;
  if (in_shard && (entry.offset < 0 || entry.bytes < 0))
    refuse(where, "an image in a tar shard needs the keys offset and bytes");
  return entry;
}

}  // namespace

Index Index::load(const std::string& path) {
  Index index;
  index.path_ = path;
  index.folder_ = std::filesystem::path(path).parent_path().string();
  const std::string text = read_file(path, std::uint64_t{1} << 36);
  index.sha256_ = sha256_hex(text);
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string where = fmt::format("{}:{}", path, ++number);
    index.entries_.push_back(parse_entry(std::string_view(text).substr(begin, end - begin), where));
    begin = end + 1;
  }
  if (index.entries_.empty()) fail(Exit::data, "{}: holds no sample", path);
  return index;
}

std::string Index::read_image(std::int64_t sample) const {
  const IndexEntry& entry = entries_.at(static_cast<std::size_t>(sample));
  if (entry.image.empty()) fail(Exit::data, "{}: sample {} has no image", path_, sample);
  const std::size_t separator = entry.image.find("::");
  const std::string file =
      (std::filesystem::path(folder_) / entry.image.substr(0, separator)).string();
  if (separator == std::string::npos) return read_file(file, max_encoded_bytes);
  const FileHandle shard = FileHandle::open_for_reading(file);
  if (entry.bytes > max_encoded_bytes)
    fail(Exit::data, "{}: sample {}: {} bytes are too many for an image", path_, sample,
         entry.bytes);
  std::string bytes(static_cast<std::size_t>(entry.bytes), '\0');
  shard.read_at(static_cast<std::uint64_t>(entry.offset), std::as_writable_bytes(std::span(bytes)));
  return bytes;
}

}  // namespace strata
