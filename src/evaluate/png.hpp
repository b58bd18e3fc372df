#pragma once

#include <string>
#include <utility>
#include <vector>

#include "data/image.hpp"

namespace strata {

using PngText = std::vector<std::pair<std::string, std::string>>;

/// The file's bytes: the same image and text always give the same bytes. Text goes to tEXt chunks,
/// or iTXt where it is not plain ASCII; keys are 1 to 79 ASCII characters.
std::string encode_png(const Image& image, const PngText& text = {});

struct DecodedPng {
  Image image;
  PngText text;
};
/// Any PNG, converted to 8-bit RGB (transparency over black). `name` is for the messages; Error(65)
/// for what is no valid PNG, is wider or higher than 16384 or holds an oversized text chunk.
DecodedPng decode_png(const std::string& bytes, const std::string& name);

}  // namespace strata
