#pragma once
// What is known beforehand of published encoders: configs/encoders/*.toml, built into the program.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "model/text_weights.hpp"

namespace strata {

enum class AttentionMode { automatic, causal, bidirectional };
/// "auto", "causal", "bidirectional"; anything else is Error(64).
AttentionMode parse_attention(const std::string& text);

struct EncoderPreset {
  std::string name;        // the file's, less .toml
  std::string repository;  // "organisation/folder" as published
  std::string model_type;
  std::int64_t width = 0, layers = 0, vocabulary = 0;
  std::int64_t parameters = 0;  // of the published folder: with lm_head where it has its own
  AttentionMode attention = AttentionMode::causal;
  std::vector<std::int32_t> before, after;  // special tokens around a caption
  std::vector<std::string> strategies;      // that the paper trained with; "pooled" among them

  /// The first thing that a folder's config says otherwise, as "width is 48, not 4096"; "" if none.
  std::string mismatch(const TextConfig& config) const;
};

/// All of them, by name.
const std::vector<EncoderPreset>& encoder_presets();

/// wanted "none": none; "auto": the one whose published folder has the name of `dir` (or of the hub
/// cache's models--ORGANISATION--NAME/snapshots/HASH); otherwise the one of that name. Error(64)
/// when there is none of that name.
std::optional<EncoderPreset> find_preset(const std::string& wanted, const std::string& dir);

/// find_preset for a model whose config is read: a preset that says otherwise is Error(65) when it
/// was named, and left aside with a warning when the folder's name suggested it.
std::optional<EncoderPreset> fitting_preset(const std::string& wanted, const std::string& dir,
                                            const TextConfig& config);

/// What `automatic` comes to: the preset's attention, else config.json's own.
bool is_causal(AttentionMode mode, const std::optional<EncoderPreset>& preset,
               const TextConfig& config);

}  // namespace strata
