#include "evaluate/image_folder.hpp"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.hpp"
#include "core/file.hpp"
#include "core/progress.hpp"
#include "core/stop_signals.hpp"

namespace strata {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t max_image_bytes = std::uint64_t{256} << 20;

// "7.0", "7.25": the shortest form with a decimal point.
std::string format_cfg(double cfg) {
  std::string text = fmt::format("{}", cfg);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

class Folder {
 public:
  Folder(const PromptSet& set, const ImageFolderOptions& options, std::string dir, double cfg)
      : set_(set),
        options_(options),
        dir_(std::move(dir)),
        cfg_(cfg),
        names_(image_file_names(set, options.images_per_prompt)) {}

  std::int64_t size() const { return static_cast<std::int64_t>(names_.size()); }
  double cfg() const { return cfg_; }

  ImageRequest request(std::int64_t image) const {
    const Prompt& prompt = prompt_of(image);
    return {prompt.row, options_.seed + static_cast<std::uint64_t>(prompt.row), variation(image)};
  }

  /// Whether image `image` is there, whole and of these settings.
  bool is_done(std::int64_t image) const {
    const std::string path = dir_ + "/" + names_[static_cast<std::size_t>(image)];
    if (fs::symlink_status(path).type() != fs::file_type::regular) return false;
    try {
      const DecodedPng png = decode_png(read_file(path, max_image_bytes), path);
      if (png.text == text(image)) return true;
    } catch (const Error& error) {
      if (error.code() != Exit::data) throw;
      return false;  // damaged: made again
    }
    if (!options_.overwrite)
      fail(Exit::cannot_create,
           "{}: is an image of other settings; give another --out, or --overwrite", path);
    return false;
  }

  void write(std::int64_t image, const Image& pixels) const {
    write_file_atomically(dir_ + "/" + names_[static_cast<std::size_t>(image)],
                          encode_png(pixels, text(image)));
  }

  void write_manifest() const {
    std::string lines;
    for (std::int64_t image = 0; image < size(); ++image) {
      const Prompt& prompt = prompt_of(image);
      nlohmann::ordered_json line{{"id", prompt.id},
                                  {"file", names_[static_cast<std::size_t>(image)]},
                                  {"prompt", prompt.text}};
      if (options_.field == TextField::upsampled) line["upsampled"] = prompt.upsampled;
      line["skills"] = prompt.skills;
      line["seed"] = request(image).seed;
      line["variation"] = variation(image);
      line["cfg"] = cfg_;
      line["steps"] = options_.steps;
      line["sampler"] = options_.sampler;
      if (options_.tile > 0) line["tile"] = options_.tile;
      line["checkpoint"] = options_.checkpoint;
      for (const auto& [name, value] : options_.settings) line[name] = value;
      lines += line.dump() + "\n";
    }
    write_file_atomically(dir_ + "/manifest.jsonl", lines);
  }

 private:
  const Prompt& prompt_of(std::int64_t image) const {
    return set_.prompts[static_cast<std::size_t>(image / options_.images_per_prompt)];
  }
  int variation(std::int64_t image) const {
    return static_cast<int>(image % options_.images_per_prompt);
  }
  PngText text(std::int64_t image) const {
    const Prompt& prompt = prompt_of(image);
    PngText text{{"prompt", prompt.text}};
    if (options_.field == TextField::upsampled) text.emplace_back("upsampled", prompt.upsampled);
    text.emplace_back("seed", fmt::format("{}", request(image).seed));
    text.emplace_back("variation", fmt::format("{}", variation(image)));
    text.emplace_back("cfg", format_cfg(cfg_));
    text.emplace_back("steps", fmt::format("{}", options_.steps));
    text.emplace_back("sampler", options_.sampler);
    if (options_.tile > 0) text.emplace_back("tile", fmt::format("{}", options_.tile));
    text.emplace_back("checkpoint", options_.checkpoint);
    text.insert(text.end(), options_.settings.begin(), options_.settings.end());
    return text;
  }

  const PromptSet& set_;
  const ImageFolderOptions& options_;
  std::string dir_;
  double cfg_;
  std::vector<std::string> names_;
};

// Ascending on every rank; each rank looks at its share of the files.
std::vector<std::int64_t> missing_images(Communicator& communicator, const Folder& folder) {
  std::string mine;
  for (std::int64_t image = communicator.rank(); image < folder.size();
       image += communicator.size())
    if (!folder.is_done(image)) mine += fmt::format("{} ", image);
  std::vector<std::int64_t> missing;
  for (const std::string& part : communicator.all_gather_strings(mine)) {
    std::istringstream numbers(part);
    for (std::int64_t image; numbers >> image;) missing.push_back(image);
  }
  std::sort(missing.begin(), missing.end());
  return missing;
}

std::int64_t fill(Communicator& communicator, const Folder& folder, int batch,
                  const MakeImages& make) {
  const auto missing = missing_images(communicator, folder);
  const auto total = static_cast<std::int64_t>(missing.size());
  const std::int64_t stride = std::int64_t{batch} * communicator.size();
  Progress progress(fmt::format("sample cfg {}", format_cfg(folder.cfg())), total, "images");
  const auto make_from = [&](std::int64_t begin) {
    const std::int64_t end = std::min(begin + batch, total);
    std::vector<ImageRequest> requests;
    for (std::int64_t i = begin; i < end; ++i) requests.push_back(folder.request(missing[i]));
    const auto images = make(requests, folder.cfg());
    STRATA_CHECK(images.size() == requests.size());
    for (std::int64_t i = begin; i < end; ++i) folder.write(missing[i], images[i - begin]);
    progress.update(std::min(begin + stride, total));
  };
  together_until_stopped(communicator, [&] {
    for (std::int64_t begin = std::int64_t{batch} * communicator.rank(); begin < total;
         begin += stride) {
      check_stop();
      make_from(begin);
    }
  });
  progress.finish();
  return total;
}

}  // namespace

std::string guidance_folder(double cfg) {
  return "cfg-" + format_cfg(cfg);
}

std::string image_folder(const ImageFolderOptions& options, double cfg) {
  return options.cfg.size() == 1 ? options.out : options.out + "/" + guidance_folder(cfg);
}

std::int64_t fill_image_folder(Communicator& communicator, const PromptSet& set,
                               const ImageFolderOptions& options, const MakeImages& make) {
  std::int64_t made = 0;
  for (const double cfg : options.cfg) {
    const std::string dir = image_folder(options, cfg);
    if (communicator.rank() == 0) make_directories(dir);
    communicator.barrier();
    const Folder folder(set, options, dir, cfg);
    made += fill(communicator, folder, options.batch, make);
    if (communicator.rank() == 0) folder.write_manifest();
  }
  communicator.barrier();
  return made;
}

}  // namespace strata
