#include "evaluate/world_export.hpp"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/progress.hpp"
#include "evaluate/png.hpp"

namespace strata::world {

namespace {

constexpr std::uint64_t evaluation_offset = std::uint64_t{1} << 40;

Scene scene_of(const Draw& draw, std::int64_t i) {
  const auto number = static_cast<std::uint64_t>(draw.first + i);
  return draw_scene(draw.seed, draw.evaluation ? evaluation_offset + number : number, draw.options);
}

std::string key_of(const Draw& draw, std::int64_t i) {
  return fmt::format("{:06}", draw.first + i);
}

// Whole under its final name, but not synced: a picture is cheap to render again, and the list that
// makes a folder count is written last.
void write_picture(const std::string& path, const std::string& bytes) {
  const std::string partial = path + ".partial";
  std::ofstream file(partial, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) fail(Exit::cannot_create, "{}: cannot write", partial);
  std::filesystem::rename(partial, path);
}

// A POSIX tar under a temporary name; `publish` renames it.
class TarWriter {
 public:
  explicit TarWriter(std::string path)
      : path_(std::move(path)), partial_(path_ + ".partial"), archive_(archive_write_new()) {
    archive_write_set_format_ustar(archive_.get());
    check(archive_write_open_filename(archive_.get(), partial_.c_str()), Exit::cannot_create);
  }
  ~TarWriter() {
    archive_.reset();
    std::error_code ignored;
    if (!published_) std::filesystem::remove(partial_, ignored);
  }
  TarWriter(const TarWriter&) = delete;
  TarWriter& operator=(const TarWriter&) = delete;

  void add(const std::string& name, const std::string& content) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(archive_entry_new(),
                                                                         archive_entry_free);
    archive_entry_set_pathname(entry.get(), name.c_str());
    archive_entry_set_size(entry.get(), static_cast<la_int64_t>(content.size()));
    archive_entry_set_filetype(entry.get(), AE_IFREG);
    archive_entry_set_perm(entry.get(), 0644);
    archive_entry_set_mtime(entry.get(), 0, 0);
    check(archive_write_header(archive_.get(), entry.get()), Exit::io);
    const auto written = archive_write_data(archive_.get(), content.data(), content.size());
    if (written != static_cast<la_ssize_t>(content.size())) check(ARCHIVE_FATAL, Exit::io);
  }
  void publish() {
    check(archive_write_close(archive_.get()), Exit::io);
    sync_path(partial_);
    std::filesystem::rename(partial_, path_);
    published_ = true;
  }

 private:
  void check(int result, Exit code) const {
    if (result == ARCHIVE_OK) return;
    const char* text = archive_error_string(archive_.get());
    fail(code, "{}: {}", partial_, text ? text : "cannot write");
  }
  struct Free {
    void operator()(archive* a) const { archive_write_free(a); }
  };
  std::string path_, partial_;
  std::unique_ptr<archive, Free> archive_;
  bool published_ = false;
};

}  // namespace

std::array<unsigned, skill_count> parse_skills(const std::string& list) {
  std::array<unsigned, skill_count> weights{};
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    const std::string name = list.substr(begin, end - begin);
    const auto found = std::find(skill_names.begin(), skill_names.end(), name);
    if (found == skill_names.end())
      fail(Exit::usage, "skill \"{}\" is not known; there are: {}", name,
           fmt::join(skill_names, ", "));
    weights[static_cast<std::size_t>(found - skill_names.begin())] = 1;
    begin = end + 1;
  }
  return weights;
}

strata::Image to_image(const Image& image) {
  return {canvas, canvas, {image.rgb.begin(), image.rgb.end()}};
}

void write_folder(const Draw& draw, const std::string& out) {
  make_directories(out);
  Progress progress("world", draw.count, "pictures");
  std::string captions;
  for (std::int64_t i = 0; i < draw.count; ++i) {
    const Scene scene = scene_of(draw, i);
    const std::string name = key_of(draw, i) + ".png";
    write_picture(out + "/" + name, encode_png(to_image(render(scene))));
    captions += nlohmann::ordered_json{{"image", name}, {"caption", caption(scene)}}.dump() + "\n";
    progress.update(i + 1);
  }
  write_file_atomically(out + "/captions.jsonl", captions);
  progress.finish();
}

void write_shards(const Draw& draw, const std::string& out, std::int64_t per_shard) {
  make_directories(out);
  Progress progress("world", draw.count, "pictures");
  for (std::int64_t begin = 0, shard = 0; begin < draw.count; begin += per_shard, ++shard) {
    TarWriter tar(fmt::format("{}/shard-{:05}.tar", out, shard));
    for (std::int64_t i = begin; i < std::min(begin + per_shard, draw.count); ++i) {
      const Scene scene = scene_of(draw, i);
      tar.add(key_of(draw, i) + ".png", encode_png(to_image(render(scene))));
      tar.add(key_of(draw, i) + ".txt", caption(scene));
      progress.update(i + 1);
    }
    tar.publish();
  }
  sync_path(out);
  progress.finish();
}

void write_prompts(const Draw& draw, const std::string& path, const std::string& pictures) {
  constexpr std::int64_t tries_per_prompt = 1000;
  std::string lines;
  std::set<std::string> seen;
  if (!pictures.empty()) make_directories(pictures);
  for (std::int64_t i = 0; static_cast<std::int64_t>(seen.size()) < draw.count; ++i) {
    if (i >= tries_per_prompt * draw.count)
      fail(Exit::usage, "--count {}: the world has only {} different captions of these skills",
           draw.count, seen.size());
    const Scene scene = scene_of(draw, i);
    const std::string text = caption(scene);
    if (!seen.insert(text).second) continue;
    const std::string id = fmt::format("{:05}", seen.size() - 1);
    lines +=
        nlohmann::ordered_json{{"id", id}, {"prompt", text}, {"skills", skills(scene)}}.dump() +
        "\n";
    if (!pictures.empty())
      write_picture(pictures + "/" + id + ".png", encode_png(to_image(render(scene))));
  }
  write_file_atomically(path, lines);
}

}  // namespace strata::world
