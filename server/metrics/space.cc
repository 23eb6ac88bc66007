#include "server/metrics/space.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace finetune {
namespace {

struct CgroupFiles {
  const char *limit, *used;
  const char* reclaimable;  // Its name in memory.stat.
  const char* stat;
};

constexpr CgroupFiles kVersions[] = {
    {"memory.max", "memory.current", "inactive_file", "memory.stat"},
    {"memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes",
     "total_inactive_file", "memory/memory.stat"},
};

// Version 1 says "no limit" by a number near 2^63.
constexpr uint64_t kNoLimit = uint64_t{1} << 60;

std::optional<uint64_t> ReadNumber(const std::filesystem::path& path) {
  std::ifstream file(path);
  uint64_t number = 0;
  if (!(file >> number)) return std::nullopt;  // "max", say.
  return number;
}

uint64_t ReadStat(const std::filesystem::path& path, const char* name) {
  std::ifstream file(path);
  std::string key;
  uint64_t value = 0;
  while (file >> key >> value) {
    if (key == name) return value;
  }
  return 0;
}

}  // namespace

std::optional<Space> DiskSpace(const std::filesystem::path& path) {
  struct statvfs stats {};
  if (statvfs(path.c_str(), &stats) != 0) return std::nullopt;
  return Space{.total_bytes = uint64_t{stats.f_blocks} * stats.f_frsize,
               .free_bytes = uint64_t{stats.f_bavail} * stats.f_frsize};
}

std::optional<Space> MemorySpace(const std::filesystem::path& cgroups) {
  for (const CgroupFiles& files : kVersions) {
    const auto limit = ReadNumber(cgroups / files.limit);
    const auto used = ReadNumber(cgroups / files.used);
    if (!limit || !used || *limit >= kNoLimit) continue;
    const uint64_t reclaimable =
        std::min(*used, ReadStat(cgroups / files.stat, files.reclaimable));
    return Space{.total_bytes = *limit,
                 .free_bytes = *limit - std::min(*limit, *used - reclaimable)};
  }
  return std::nullopt;
}

}  // namespace finetune
