#pragma once
// This process and its machine, as logs and records name them.

#include <cstdint>
#include <string>

namespace strata {

/// "unknown" where the machine does not say.
std::string host_name();
/// "2026-01-31T12:00:00Z"
std::string utc_now();
/// Highest resident memory of this process so far, in bytes.
std::int64_t peak_resident_bytes();

}  // namespace strata
