#include "data/index_sources.hpp"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/json.hpp"

namespace strata {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::size_t max_text_bytes = std::size_t{16} << 20;  // one line, or one caption file

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

bool is_image_extension(const std::string& extension) {
  return extension == "jpg" || extension == "jpeg" || extension == "png" || extension == "webp";
}

bool is_json_lines(const std::string& extension) {
  return extension == "jsonl" || extension == "ndjson";
}

std::string extension_of(const fs::path& path) {
  const std::string extension = lower(path.extension().string());
  return extension.empty() ? extension : extension.substr(1);
}

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  return text;
}

/// Captions of a JSON object under the names in use; false when it has none, or one that is not
/// text.
bool take_captions(const Json& object, std::vector<std::string>& captions) {
  for (const char* key : {"captions", "caption", "text", "prompt", "TEXT"}) {
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) continue;
    if (found->is_string()) {
      captions.push_back(found->get<std::string>());
      return true;
    }
    if (!found->is_array() || found->empty()) return false;
    for (const Json& caption : *found) {
      if (!caption.is_string()) return false;
      captions.push_back(caption.get<std::string>());
    }
    return true;
  }
  return false;
}

/// fn(line, "file:number") for each line; lines end at LF, a CR before it is dropped.
template <class Function>
void for_each_line(const std::string& path, Function fn) {
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(Exit::data, "{}: cannot be opened", path);
  std::string line;
  for (std::int64_t number = 1; std::getline(file, line); ++number) {
    const std::string where = fmt::format("{}:{}", path, number);
    if (line.size() > max_text_bytes)
      fail(Exit::data, "{}: a line of {} bytes", where, line.size());
    if (!line.empty() && line.back() == '\r') line.pop_back();
    fn(line, where);
  }
  if (file.bad()) fail(Exit::io, "{}: read failed", path);
}

void list_json_lines(const std::string& path, const std::string& images,
                     const CandidateSink& sink) {
  for_each_line(path, [&](const std::string& line, const std::string& where) {
    if (line.find_first_not_of(" \t") == std::string::npos) return;
    const Json object = parse_json(line, where);
    if (!object.is_object()) fail(Exit::data, "{}: not a JSON object", where);
    Candidate candidate;
    for (const char* key : {"image", "file_name", "image_path", "filename", "file", "path"}) {
      const auto found = object.find(key);
      if (found == object.end() || found->is_null()) continue;
      if (!found->is_string()) fail(Exit::data, "{}: key {} is not a string", where, key);
      candidate.file = (fs::path(images) / found->get<std::string>()).string();
      break;
    }
    if (!take_captions(object, candidate.captions))
      fail(Exit::data, "{}: no caption (keys captions, caption, text or prompt)", where);
    sink(std::move(candidate));
  });
}

/// "IMAGE<tab>CAPTION", or a caption alone, on each line.
void list_text(const std::string& path, const std::string& images, const CandidateSink& sink) {
  for_each_line(path, [&](const std::string& line, const std::string& where) {
    Candidate candidate;
    const std::size_t tab = line.find('\t');
    if (tab != std::string::npos)
      candidate.file = (fs::path(images) / line.substr(0, tab)).string();
    candidate.captions.push_back(tab == std::string::npos ? line : line.substr(tab + 1));
    try {
      Json(line).dump();
    } catch (const Json::exception&) {
      fail(Exit::data, "{}: not valid UTF-8", where);
    }
    sink(std::move(candidate));
  });
}

// --- tar shards ---------------------------------------------------------------------------------

/// The members of one key: KEY.jpg, KEY.txt, KEY.json, where KEY ends at the first dot of the name.
struct Group {
  Candidate candidate;
  std::string text, json;
  bool has_text = false, has_json = false;
};

class TarReader {
 public:
  explicit TarReader(const std::string& path)
      : path_(path), archive_(archive_read_new(), archive_read_free) {
    archive_read_support_format_tar(archive_.get());
    if (archive_read_open_filename(archive_.get(), path.c_str(), 1 << 16) != ARCHIVE_OK)
      refuse("not a tar file that can be read");
  }

  bool next(archive_entry*& entry) {
    const int status = archive_read_next_header(archive_.get(), &entry);
    if (status == ARCHIVE_EOF) return false;
    if (status != ARCHIVE_OK && status != ARCHIVE_WARN)
      refuse("not a tar file, compressed, or damaged");
    return true;
  }

  /// Where the current member's bytes begin: headers are consumed to the byte.
  std::int64_t position() const { return archive_filter_bytes(archive_.get(), 0); }

  std::string read(std::int64_t bytes, const std::string& member) {
    if (bytes < 0 || bytes > static_cast<std::int64_t>(max_text_bytes))
      fail(Exit::data, "{}::{}: {} bytes of text", path_, member, bytes);
    std::string text(static_cast<std::size_t>(bytes), '\0');
    if (archive_read_data(archive_.get(), text.data(), text.size()) != bytes)
      refuse("ends within a member");
    return text;
  }

 private:
  [[noreturn]] void refuse(const char* what) const {
    const char* detail = archive_error_string(archive_.get());
    fail(Exit::data, "{}: {} ({})", path_, what, detail ? detail : "no detail");
  }

  std::string path_;
  std::unique_ptr<archive, int (*)(archive*)> archive_;
};

void take_member(TarReader& tar, archive_entry* entry, const std::string& member,
                 const std::string& extension, Group& group) {
  const std::int64_t bytes = archive_entry_size(entry);
  Candidate& candidate = group.candidate;
  if (is_image_extension(extension)) {
    if (!candidate.member.empty()) {
      candidate.problem = "several images of one key";
    } else {
      candidate.member = member;
      candidate.offset = tar.position();
      candidate.bytes = bytes;
      if (archive_entry_sparse_count(entry) > 0) candidate.problem = "a sparse member";
    }
  } else if (extension == "txt") {
    group.text = trimmed(tar.read(bytes, member));
    group.has_text = true;
  } else if (extension == "json") {
    group.json = tar.read(bytes, member);
    group.has_json = true;
  }
}

/// KEY.json's captions, then KEY.txt as the first one unless it is among them.
void settle_captions(Group& group) {
  Candidate& candidate = group.candidate;
  if (group.has_json) {
    try {
      const Json object = parse_json(group.json, candidate.name());
      if (object.is_object()) take_captions(object, candidate.captions);
    } catch (const Error& e) {
      if (!group.has_text) candidate.problem = e.what();
    }
  }
  if (group.has_text) {
    auto& captions = candidate.captions;
    captions.erase(std::remove(captions.begin(), captions.end(), group.text), captions.end());
    captions.insert(captions.begin(), group.text);
  }
  if (candidate.problem.empty() && candidate.captions.empty()) candidate.problem = "no caption";
}

void list_tar(const std::string& path, const CandidateSink& sink) {
  TarReader tar(path);
  std::vector<Group> groups;
  std::unordered_map<std::string, std::size_t> by_key;
  for (archive_entry* entry = nullptr; tar.next(entry);) {
    const char* name = archive_entry_pathname(entry);
    if (!name || archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry))
      continue;
    const std::string member = name;
    const std::size_t slash = member.rfind('/');
    const std::size_t base = slash == std::string::npos ? 0 : slash + 1;
    const std::size_t dot = member.find('.', base);
    if (dot == std::string::npos || dot == base) continue;
    const std::string extension = lower(member.substr(dot + 1));
    if (!is_image_extension(extension) && extension != "txt" && extension != "json") continue;
    const auto [found, added] = by_key.try_emplace(member.substr(0, dot), groups.size());
    if (added) groups.emplace_back();
    take_member(tar, entry, member, extension, groups[found->second]);
  }
  for (Group& group : groups) {
    if (group.candidate.member.empty()) continue;  // a shard's statistics, say
    group.candidate.file = path;
    settle_captions(group);
    sink(std::move(group.candidate));
  }
}

// --- folders ------------------------------------------------------------------------------------

/// KEY.txt, KEY.caption or KEY.json beside KEY.jpg.
void list_image_beside_text(const fs::path& image, const CandidateSink& sink) {
  Candidate candidate;
  candidate.file = image.string();
  for (const char* extension : {".txt", ".caption"}) {
    const std::string text = fs::path(image).replace_extension(extension).string();
    if (candidate.captions.empty() && file_exists(text))
      candidate.captions.push_back(trimmed(read_file(text, max_text_bytes)));
  }
  const std::string json = fs::path(image).replace_extension(".json").string();
  if (candidate.captions.empty() && file_exists(json)) {
    const Json object = read_json_file(json, max_text_bytes);
    if (object.is_object()) take_captions(object, candidate.captions);
  }
  if (candidate.captions.empty()) candidate.problem = "no caption";
  sink(std::move(candidate));
}

void list_folder(const std::string& folder, const std::string& images, const CandidateSink& sink) {
  std::vector<fs::path> lists, shards, pictures;
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(folder, error);
       !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    if (!entry->is_regular_file()) continue;
    const std::string extension = extension_of(entry->path());
    const bool at_top = entry.depth() == 0;
    const std::string name = entry->path().filename().string();
    if (at_top && is_json_lines(extension) && name != "index.jsonl" && name != "skipped.jsonl")
      lists.push_back(entry->path());
    else if (at_top && extension == "tar")
      shards.push_back(entry->path());
    else if (is_image_extension(extension))
      pictures.push_back(entry->path());
  }
  if (error) fail(Exit::io, "{}: {}", folder, error.message());
  for (auto* paths : {&lists, &shards, &pictures}) std::sort(paths->begin(), paths->end());
  for (const fs::path& list : lists)
    list_json_lines(list.string(), images.empty() ? folder : images, sink);
  for (const fs::path& shard : shards) list_tar(shard.string(), sink);
  if (!lists.empty() || !shards.empty()) return;
  for (const fs::path& picture : pictures) list_image_beside_text(picture, sink);
}

}  // namespace

void list_candidates(const std::string& input, const std::string& images,
                     const CandidateSink& sink) {
  if (directory_exists(input)) return list_folder(input, images, sink);
  if (!file_exists(input)) fail(Exit::data, "{}: no such file or folder", input);
  const std::string extension = extension_of(input);
  const std::string beside = images.empty() ? fs::path(input).parent_path().string() : images;
  if (extension == "tar") return list_tar(input, sink);
  if (extension == "gz" || extension == "tgz" || extension == "zst")
    fail(Exit::data, "{}: compressed shards cannot be read at an offset: unpack it to .tar", input);
  if (is_json_lines(extension) || extension == "json") return list_json_lines(input, beside, sink);
  list_text(input, beside, sink);
}

}  // namespace strata
