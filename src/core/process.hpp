#pragma once
// This process and its machine, as logs and records name them.

#include <cstdint>
#include <string>

namespace strata {

/// "unknown" where the machine does not say.
std::string host_name();
/// Differs after every start of the machine; empty where it does not say.
std::string boot_id();
/// Process ids mean the same processes where this is the same and the boot too; empty as above.
std::string pid_namespace();
struct ProcessState {
  std::uint64_t start = 0;  // in ticks since the boot; 0: there is none, or a dead one
  bool goes_on = false;     // it runs or waits, and is not stopped, traced or stuck in the kernel
};
ProcessState state_of_process(std::int64_t pid);
/// "2026-01-31T12:00:00Z"
std::string utc_now();
/// Highest resident memory of this process so far, in bytes.
std::int64_t peak_resident_bytes();
/// Resident now, in bytes: of the process alone, and pages of mapped files, which are in memory
/// once for all processes of the machine. 0 where the machine does not say.
struct ResidentBytes {
  std::int64_t own = 0, of_files = 0;
};
ResidentBytes resident_bytes();

}  // namespace strata
