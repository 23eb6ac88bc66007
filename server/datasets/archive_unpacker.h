// Archives from strangers, unpacked as they stream in.

#ifndef SERVER_DATASETS_ARCHIVE_UNPACKER_H_
#define SERVER_DATASETS_ARCHIVE_UNPACKER_H_

#include <cstdint>
#include <filesystem>

#include "absl/status/statusor.h"
#include "server/datasets/gunzip.h"

namespace finetune {

struct UnpackLimits {
  // Of all files together, and 4096 for each file and folder.
  uint64_t max_total_bytes = uint64_t{64} << 30;
  uint64_t max_file_bytes = 64 << 20;  // The most that an image may have.
  int64_t max_files = 5'000'000;       // Entries, and folders made for them.
  // Unpacked bytes may be at most this many times those received, and
  // `ratio_slack` more.
  uint64_t max_ratio = 200;
  uint64_t ratio_slack = 10 << 20;
};

struct UnpackResult {
  int64_t files = 0;
  int64_t bytes = 0;
};

// Unpacks a tar, tar.gz or zip archive from `read` into the folder `dir`, which
// must be empty and nobody else's. The archive is never kept, nor is it sought
// in; what follows its end is left unread. Takes about 5 MiB of memory, and a
// hostile archive at most 64 MiB.
//
// Only plain files and folders come out of it, named as in the archive, with
// modes of our own; its owners, times and the like are ignored, as is the junk
// that macOS adds. A zip's symbolic links look like files while it streams:
// they become files that hold the link's target. Nothing is synced to disk.
// After an error `dir` holds a part of the archive.
//
// INVALID_ARGUMENT    broken, ends early, or an entry is refused: a link or
//                     device, encrypted, sparse, another compression than
//                     deflate, there twice, or named with "..", '\', from the
//                     root on, with a part over 255 bytes, over 4096 in all or
//                     32 folders deep. The message names the entry.
// RESOURCE_EXHAUSTED  over a limit, or the disk is full.
// Else the error of `read`.
absl::StatusOr<UnpackResult> UnpackArchive(const ReadFn& read,
                                           const std::filesystem::path& dir,
                                           const UnpackLimits& limits);

}  // namespace finetune

#endif  // SERVER_DATASETS_ARCHIVE_UNPACKER_H_
