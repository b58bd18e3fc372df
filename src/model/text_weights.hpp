#pragma once
// The tensors of a text model's folder: what each family calls them, which shapes they must have,
// and how they come into memory once and no more.

#include <map>
#include <string>

#include "core/safetensors.hpp"
#include "model/text_config.hpp"

namespace strata {

/// As the family's files have them, less the folder's prefix (`model.`, `text_model.`, `encoder.`
/// or none) and less ".weight" and ".bias". Empty: the family has none.
struct TextNames {
  std::string embedding, positions, relative_bias, final_norm;
};
struct TextLayerNames {
  std::string attention_norm, query, key, value, output, post_attention_norm;
  std::string mlp_norm, gate, up, down, post_mlp_norm;
};
TextNames text_names(const TextConfig&);
TextLayerNames text_layer_names(const TextConfig&, std::int64_t layer);

/// Name and shape of every tensor that the forward pass computes with, less the prefix.
std::map<std::string, Shape> text_tensors(const TextConfig&);
/// Their elements, and those of CLIP's projection.
std::int64_t parameter_count(const TextConfig&);
/// The same and a separate lm_head: what the folder's publisher counts.
std::int64_t published_parameter_count(const TextConfig&);

class TextWeights {
 public:
  /// Opens the folder and holds it against the config: Error(65) for a tensor that is missing, of
  /// another shape, or unknown to the family (the forward pass would leave it out).
  TextWeights(const std::string& dir, const TextConfig&);

  /// In the compute type (f32 or bf16) on the device.
  Buffer read(Exec&, const std::string& name, DType compute) const;
  /// A matrix in the backend's own layout; the plain one exists only on the way.
  ops::PackedWeight pack(Exec&, const std::string& name, DType compute) const;
  /// TextModel::read_head's matrix.
  ops::PackedWeight pack_head(Exec&, const TextConfig&, DType compute) const;
  /// It is read soon (core/read_ahead.hpp).
  void will_need(const std::string& name) const;
  /// In its stored type on the device: on the host a view of the file, which lives as long as this
  /// object, unless the file did not align it.
  Tensor stored(Exec&, const std::string& name);
  /// CLIP's text projection, whose name has no prefix; 0 rows when the folder has none.
  std::int64_t projection_width() const;

  std::string sha256() const { return folder_.sha256(); }

 private:
  void check(const TextConfig&) const;
  /// The name in the file.
  std::string full(const std::string& name) const;

  SafetensorsFolder folder_;
  std::string prefix_;
  bool shared_embedding_;  // T5: the embedding's name is `shared`, without prefix
  std::map<std::string, Buffer> copies_;
};

}  // namespace strata
