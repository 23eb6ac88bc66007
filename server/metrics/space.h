// Space that a server may run out of: its disk, and the memory of the container
// that it runs in.

#ifndef SERVER_METRICS_SPACE_H_
#define SERVER_METRICS_SPACE_H_

#include <cstdint>
#include <filesystem>
#include <optional>

namespace finetune {

struct Space {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;  // That an unprivileged process may still take.
};

// The file system that holds `path`. Nothing if it cannot be asked.
std::optional<Space> DiskSpace(const std::filesystem::path& path);

// The memory limit of this process's control group, as a container sees it
// mounted at `cgroups` (version 1 or 2), with all processes in it, so trainers
// too. Cached file pages that the kernel would give up first count as free.
// Nothing where there is no limit.
std::optional<Space> MemorySpace(
    const std::filesystem::path& cgroups = "/sys/fs/cgroup");

}  // namespace finetune

#endif  // SERVER_METRICS_SPACE_H_
