// A SentencePiece .model: libsentencepiece sees what our checks let through.

#include <nlohmann/json.hpp>

#include "fuzz.hpp"
#include "text/sentence_piece.hpp"

using namespace strata;

STRATA_FUZZ(input) {
  fuzz::reads([&] {
    const auto backend =
        make_sentence_piece(std::string(input), nlohmann::json::object(), "fuzz/tokenizer.model");
    std::vector<std::int32_t> ids;
    backend->encode("A red  circle \xc3\xa9\xe4\xb8\xad\xf0\x9f\x8e\xa8, 12's.", ids);
    backend->decode(ids, false);
  });
}
