#include "text/metaspace.hpp"

#include "text/fields.hpp"
#include "text/unicode.hpp"

namespace strata {

MetaspaceOptions::MetaspaceOptions(const nlohmann::json& description, const std::string& where)
    : replacement(string_member(description, "replacement", where)) {
  if (replacement.empty() || utf8_length(replacement[0]) != replacement.size())
    fail(Exit::data, "{}: Metaspace: its replacement is not one character", where);
  const std::string name = has_value(description, "prepend_scheme")
                               ? string_member(description, "prepend_scheme", where)
                               : "always";
  if (name == "first")
    scheme = Scheme::first;
  else if (name == "never")
    scheme = Scheme::never;
  else if (name != "always")
    fail(Exit::data, "{}: Metaspace: prepend_scheme {:.60} is not supported", where, name);
  if (bool_member(description, "add_prefix_space", true, where)) return;
  if (has_value(description, "prepend_scheme") && scheme != Scheme::never)
    fail(Exit::data, "{}: Metaspace: add_prefix_space false, but prepend_scheme {}", where, name);
  scheme = Scheme::never;
}

}  // namespace strata
