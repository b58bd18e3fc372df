#pragma once

#include <span>
#include <string>
#include <string_view>

namespace strata {

/// Edits (insert, delete, replace) between two names (Levenshtein).
int edit_distance(std::string_view a, std::string_view b);
/// The candidate with the fewest edits, the first of equals; empty when even that one differs in
/// more than half of its letters.
std::string nearest_name(std::string_view name, std::span<const std::string> candidates);

}  // namespace strata
