#include "text/sentence_piece_file.hpp"

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <unordered_set>
#include <utility>

#include "core/byte_reader.hpp"
#include "core/error.hpp"
#include "text/charsmap.hpp"
#include "text/unicode.hpp"

namespace strata {

namespace {

/// The fields of one message, in order.
class Fields {
 public:
  Fields(std::string_view bytes, const std::string& path)
      : in_(bytes, path + ": not a sound SentencePiece model") {}

  struct Field {
    std::uint32_t number;
    enum Wire : std::uint32_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 } wire;
    std::uint64_t integer;  // of varint and fixed
    std::string_view text;  // of bytes
  };

  std::optional<Field> next() {
    if (in_.at_end()) return std::nullopt;
    const std::uint64_t tag = in_.varint();
    if (tag >> 32 != 0 || tag >> 3 == 0) refuse("a field without a number");
    Field field{static_cast<std::uint32_t>(tag >> 3), static_cast<Field::Wire>(tag & 7), 0, {}};
    switch (field.wire) {
      case Field::varint:
        field.integer = in_.varint();
        break;
      case Field::fixed64:
        field.integer = in_.number<std::uint64_t>();
        break;
      case Field::fixed32:
        field.integer = in_.number<std::uint32_t>();
        break;
      case Field::bytes:
        field.text = in_.take(in_.varint());
        break;
      default:
        refuse("an unknown wire type");
    }
    return field;
  }

  /// Where the next field begins.
  std::size_t offset() const { return in_.offset(); }
  [[noreturn]] void refuse(std::string_view what) const { in_.refuse(what); }

 private:
  ByteReader in_;
};

using Field = Fields::Field;

/// Field numbers of sentencepiece_model.proto.
namespace model_field {
constexpr std::uint32_t piece = 1, trainer = 2, normalizer = 3, self_test = 4, denormalizer = 5;
}
namespace piece_field {
constexpr std::uint32_t text = 1, score = 2, type = 3;
}
constexpr std::uint32_t model_type_field = 3, byte_fallback_field = 35, charsmap_field = 2;
constexpr std::size_t max_pieces = std::size_t{1} << 24, max_piece_bytes = 4096;

std::string check_piece(std::string_view bytes, std::size_t index, const std::string& path) {
  const auto refuse = [&](std::string_view what) {
    fail(Exit::data, "{}: piece {}: {}", path, index, what);
  };
  Fields fields(bytes, path);
  std::set<std::uint32_t> seen;
  std::string text;
  while (const auto field = fields.next()) {
    if (!seen.insert(field->number).second) refuse("a field is there twice");
    if (field->number == piece_field::text && field->wire == Field::bytes) {
      text = field->text;
    } else if (field->number == piece_field::score && field->wire == Field::fixed32) {
      const auto score = std::bit_cast<float>(static_cast<std::uint32_t>(field->integer));
      if (!std::isfinite(score)) refuse("its score is not finite");
    } else if (field->number == piece_field::type && field->wire == Field::varint) {
      if (field->integer < 1 || field->integer > 6) refuse("its type is unknown");
    } else if (field->number <= piece_field::type) {
      refuse("a field has another type");
    }
  }
  if (text.empty() || text.size() > max_piece_bytes || text.find('\0') != std::string::npos ||
      find_invalid_utf8(text) != std::string::npos)
    refuse("its text is empty, too long, has a NUL or is not UTF-8");
  return text;
}

void check_trainer(std::string_view bytes, const std::string& path) {
  Fields fields(bytes, path);
  while (const auto field = fields.next()) {
    if (field->number != model_type_field) continue;
    constexpr std::uint64_t unigram = 1, bpe = 2;
    if (field->wire != Field::varint || (field->integer != unigram && field->integer != bpe))
      fail(Exit::data, "{}: model_type {} is not supported (unigram and BPE are)", path,
           field->integer);
  }
}

void check_normalizer(std::string_view bytes, const std::string& path) {
  Fields fields(bytes, path);
  bool seen = false;
  while (const auto field = fields.next()) {
    if (field->number != charsmap_field) continue;
    if (std::exchange(seen, true) || field->wire != Field::bytes)
      fields.refuse("precompiled_charsmap is there twice, or not bytes");
    if (!field->text.empty()) Charsmap(field->text, path);
  }
}

void append_varint(std::string& bytes, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  bytes += static_cast<char>(value);
}

void append_integer(std::string& bytes, std::uint32_t number, std::uint64_t value) {
  append_varint(bytes, number << 3 | Field::varint);
  append_varint(bytes, value);
}

void append_bytes(std::string& bytes, std::uint32_t number, std::string_view value) {
  append_varint(bytes, number << 3 | Field::bytes);
  append_varint(bytes, value.size());
  bytes += value;
}

/// "<0x41>"
bool is_byte_name(std::string_view text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>');
}

}  // namespace

std::optional<std::string> with_byte_pieces(std::string_view bytes, const std::string& path) {
  std::string wider;
  Fields fields(bytes, path);
  for (std::size_t begin = 0; const auto field = fields.next(); begin = fields.offset()) {
    if (field->number == model_field::self_test) continue;
    if (field->number == model_field::piece && is_byte_name(check_piece(field->text, 0, path)))
      return std::nullopt;
    wider += bytes.substr(begin, fields.offset() - begin);
  }
  for (int byte = 0; byte < 256; ++byte) {
    constexpr std::uint64_t byte_type = 6;
    std::string piece;
    append_bytes(piece, piece_field::text, fmt::format("<0x{:02X}>", byte));
    append_integer(piece, piece_field::type, byte_type);
    append_bytes(wider, model_field::piece, piece);
  }
  // A message that comes twice is merged field by field.
  std::string trainer;
  append_integer(trainer, byte_fallback_field, 1);
  append_bytes(wider, model_field::trainer, trainer);
  return wider;
}

void check_sentence_piece_file(std::string_view bytes, const std::string& path) {
  Fields fields(bytes, path);
  std::unordered_set<std::string> pieces;
  std::set<std::uint32_t> seen;
  while (const auto field = fields.next()) {
    if (field->number > model_field::denormalizer) continue;
    if (field->wire != Field::bytes) fields.refuse("a field has another type");
    if (field->number == model_field::piece) {
      const std::size_t index = pieces.size();
      if (index == max_pieces) fields.refuse("more than 2^24 pieces");
      if (!pieces.insert(check_piece(field->text, index, path)).second)
        fail(Exit::data, "{}: piece {} is there twice", path, index);
      continue;
    }
    if (!seen.insert(field->number).second) fields.refuse("a field is there twice");
    if (field->number == model_field::trainer) check_trainer(field->text, path);
    if (field->number == model_field::normalizer || field->number == model_field::denormalizer)
      check_normalizer(field->text, path);
  }
  if (pieces.empty()) fail(Exit::data, "{}: holds no pieces", path);
}

}  // namespace strata
