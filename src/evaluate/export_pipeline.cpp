#include "evaluate/export_pipeline.hpp"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/file.hpp"
#include "core/json.hpp"
#include "model/unet.hpp"
#include "model/weights.hpp"
#include "train/checkpoint.hpp"

namespace strata {

namespace {

namespace fs = std::filesystem;

void copy_into(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_directories(to.parent_path(), error);
  fs::copy_file(from, to, fs::copy_options::none, error);
  if (error) fail(Exit::io, "{} -> {}: {}", from.string(), to.string(), error.message());
}

// Plain files of a model's folder; a tokenizer's own files go to a folder of their own.
void copy_model(const std::string& from, const std::string& to, const std::string& tokenizer_to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    if (!entry.is_regular_file()) continue;
    const std::string name = entry.path().filename().string();
    const bool is_tokenizer =
        !tokenizer_to.empty() &&
        (name.starts_with("tokenizer") || name.starts_with("special_tokens") ||
         name.ends_with(".model") || name.starts_with("vocab") || name.starts_with("merges"));
    copy_into(entry.path(), fs::path(is_tokenizer ? tokenizer_to : to) / name);
  }
}

// A copied encoder by the names of transformers' classes, which diffusers imports.
void name_encoder(const std::string& dir, nlohmann::ordered_json& index) {
  const auto config = read_json_file(dir + "/text_encoder/config.json");
  const bool is_clip = config.value("model_type", "") == "clip_text_model";
  std::string encoder = is_clip ? "CLIPTextModel" : "AutoModel";
  if (!is_clip && config.contains("architectures") && config["architectures"].is_array() &&
      !config["architectures"].empty() && config["architectures"][0].is_string())
    encoder = config["architectures"][0].get<std::string>();
  const bool has_merges = file_exists(dir + "/tokenizer/merges.txt");
  index["text_encoder"] = {"transformers", encoder};
  index["tokenizer"] = {"transformers",
                        is_clip && has_merges ? "CLIPTokenizer" : "PreTrainedTokenizerFast"};
}

// What lies in `dir`, as StableDiffusionPipeline looks for it.
std::string model_index(const std::string& dir, const PipelineExport& options) {
  const std::string scheduler = scheduler_class(read_scheduler_file(dir), dir + "/scheduler");
  nlohmann::ordered_json index{{"_class_name", "StableDiffusionPipeline"},
                               {"_diffusers_version", "0.30.0"},
                               {"unet", {"diffusers", "UNet2DConditionModel"}},
                               {"scheduler", {"diffusers", scheduler}}};
  index["safety_checker"] = {nullptr, nullptr};
  index["feature_extractor"] = {nullptr, nullptr};
  index["requires_safety_checker"] = false;
  if (!options.vae.empty()) index["vae"] = {"diffusers", "AutoencoderKL"};
  if (!options.encoder.empty()) name_encoder(dir, index);
  return index.dump(2) + "\n";
}

std::string host_state(const Denoiser& denoiser) {
  const TextSettings text = denoiser.text.value_or(TextSettings{});
  nlohmann::ordered_json host{{"unet", nlohmann::ordered_json::parse(denoiser.config.to_json())},
                              {"scheduler", denoiser.scheduler},
                              {"text_strategy", text.strategy},
                              {"text_attention", text.attention},
                              {"text_max_tokens", text.max_tokens},
                              {"pooled", denoiser.config.pooled_dim > 0},
                              {"source_sha256", denoiser.hash}};
  if (denoiser.layout) host["layout"] = denoiser.layout->to_json();
  return host.dump();
}

}  // namespace

void export_pipeline(const Denoiser& denoiser, const PipelineExport& options) {
  if (fs::exists(fs::symlink_status(options.out)))
    fail(Exit::cannot_create, "{}: exists already", options.out);
  const std::string partial = options.out + ".partial";
  fs::remove_all(partial);
  make_directories(partial + "/scheduler");
  const UNet unet(denoiser.config);
  const bool as_it_came = denoiser.layout && !options.dtype;
  write_unet_folder(partial + "/unet", unet.parameters(), denoiser.flat,
                    as_it_came ? *denoiser.layout
                               : default_layout(denoiser.config, unet.parameters(),
                                                options.dtype.value_or(DType::f32)));
  write_file_atomically(partial + "/scheduler/scheduler_config.json", denoiser.scheduler);
  if (!options.vae.empty()) copy_model(module_folder(options.vae, "vae"), partial + "/vae", "");
  if (!options.encoder.empty()) {
    const std::string encoder = module_folder(options.encoder, "text_encoder");
    copy_model(encoder, partial + "/text_encoder", partial + "/tokenizer");
    if (encoder != options.encoder && directory_exists(options.encoder + "/tokenizer"))
      copy_model(options.encoder + "/tokenizer", partial + "/tokenizer", "");
  }
  write_file_atomically(partial + "/model_index.json", model_index(partial, options));
  std::error_code error;
  fs::rename(partial, options.out, error);
  if (error) fail(Exit::cannot_create, "{}: rename: {}", options.out, error.message());
}

std::string export_checkpoint(Communicator& communicator, const Denoiser& denoiser,
                              const std::string& root) {
  STRATA_CHECK(communicator.size() == 1);
  const UNet unet(denoiser.config);
  const CheckpointShard shard{
      &unet.parameters(), {{{0, unet.parameters().numel()}, 0}}, {{"master", denoiser.flat}}};
  const std::string host = host_state(denoiser);
  return save_checkpoint(communicator, fs::absolute(root).string(), 0, shard, sha256_hex(host),
                         host)
      .path;
}

}  // namespace strata
