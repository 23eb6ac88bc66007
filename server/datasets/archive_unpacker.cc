#include "server/datasets/archive_unpacker.h"

#include <locale.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "archive.h"
#include "archive_entry.h"
#include "common/status_macros.h"
#include "common/utf8.h"
#include "server/datasets/folder_writer.h"

namespace finetune {
namespace {

constexpr size_t kMaxPathBytes = 4096;
constexpr uint64_t kBlockBytes = 4096;
constexpr size_t kMaxPartBytes = 255;
constexpr size_t kMaxDepth = 32;
constexpr size_t kMaxNameShown = 200;
// Of one entry: names, extensions, sparse maps. libarchive keeps them in
// memory, the latter with many times their size.
constexpr uint64_t kMaxHeaderBytes = 4 << 20;
constexpr size_t kMaxPieceBytes = 256 << 10;

// libarchive turns names that are declared as UTF-8 into the thread's locale's
// character set, and loses those that do not fit.
class Utf8Locale {
 public:
  Utf8Locale() : before_(Get() == nullptr ? nullptr : uselocale(Get())) {}
  ~Utf8Locale() {
    if (before_ != nullptr) uselocale(before_);
  }
  Utf8Locale(const Utf8Locale&) = delete;
  Utf8Locale& operator=(const Utf8Locale&) = delete;

 private:
  // One for all threads, kept until the process ends; null where there is none.
  static locale_t Get() {
    static const locale_t locale = newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr);
    return locale;
  }

  const locale_t before_;
};

bool IsJunk(const PathParts& path) {
  return std::any_of(path.begin(), path.end(), [](const std::string& part) {
    return part == "__MACOSX" || part == ".DS_Store" ||
           absl::StartsWith(part, "._");
  });
}

// One archive. An entry's name comes first in a message about it.
class Unpacker {
 public:
  Unpacker(const ReadFn& read, FolderWriter& writer, const UnpackLimits& limits)
      : limits_(limits),
        source_(read, limits.max_ratio, limits.ratio_slack),
        writer_(writer),
        archive_(archive_read_new(), archive_read_free) {}

  absl::StatusOr<UnpackResult> Run() {
    archive* const a = archive_.get();
    archive_read_support_format_tar(a);
    archive_read_support_format_zip_streamable(a);
    if (archive_read_open(a, this, nullptr, &Unpacker::OnRead, nullptr) !=
        ARCHIVE_OK) {
      return ArchiveError();
    }
    for (;;) {
      name_.clear();
      header_bytes_ = 0;
      archive_entry* entry = nullptr;
      const int result = archive_read_next_header(a, &entry);
      if (result == ARCHIVE_EOF) return result_;
      // A warning is about what we do not use, such as an owner's name.
      if (result != ARCHIVE_OK && result != ARCHIVE_WARN) return ArchiveError();
      RETURN_IF_ERROR(UnpackEntry(entry));
    }
  }

 private:
  // libarchive's read callback.
  static la_ssize_t OnRead(archive* a, void* self, const void** buffer) {
    return static_cast<Unpacker*>(self)->Read(a, buffer);
  }

  la_ssize_t Read(archive* a, const void** buffer) {
    if (piece_.empty()) {
      absl::StatusOr<absl::string_view> bytes = source_.Read();
      if (!bytes.ok()) return Fail(a, std::move(bytes).status());
      piece_ = *bytes;
    }
    const absl::string_view next = piece_.substr(0, kMaxPieceBytes);
    header_bytes_ += next.size();
    if (header_bytes_ > kMaxHeaderBytes) {
      return Fail(a, absl::InvalidArgumentError(
                         "the archive has an entry with more than 4 MiB of "
                         "names and attributes"));
    }
    piece_.remove_prefix(next.size());
    *buffer = next.data();
    return static_cast<la_ssize_t>(next.size());
  }

  la_ssize_t Fail(archive* a, absl::Status status) {
    source_error_ = std::move(status);
    archive_set_error(a, EIO, "read");
    return ARCHIVE_FATAL;
  }

  // Why libarchive gave up.
  absl::Status ArchiveError() const {
    RETURN_IF_ERROR(source_error_);
    const char* const why = archive_error_string(archive_.get());
    return absl::InvalidArgumentError(absl::StrCat(
        name_.empty() ? "" : Shown() + ": ",
        "not a tar, tar.gz or zip archive, or broken, or it ends early: ",
        why == nullptr ? "" : ToUtf8(why)));
  }

  std::string Shown() const {
    return absl::StrCat("archive entry \"",
                        ToUtf8(name_.substr(0, kMaxNameShown)),
                        name_.size() > kMaxNameShown ? "..." : "", "\"");
  }
  absl::Status Refuse(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat(Shown(), " ", what));
  }
  absl::Status Exhausted(absl::string_view what) const {
    return absl::ResourceExhaustedError(absl::StrCat(Shown(), ": ", what));
  }
  absl::Status Named(const absl::Status& status) const {
    return absl::Status(status.code(),
                        absl::StrCat(Shown(), " ", status.message()));
  }

  absl::Status UnpackEntry(archive_entry* entry);
  absl::StatusOr<PathParts> CheckName() const;
  absl::Status CheckKind(archive_entry* entry) const;
  absl::Status CheckCount() const;
  absl::Status CheckTotal() const;
  absl::Status WriteFile(archive_entry* entry, const PathParts& path);
  // Reads the entry's data and, where `fd` is not -1, writes it.
  absl::Status CopyData(archive_entry* entry, int fd);
  absl::Status Write(int fd, absl::string_view bytes) const;

  const UnpackLimits& limits_;
  Gunzip source_;
  FolderWriter& writer_;
  const std::unique_ptr<archive, int (*)(archive*)> archive_;
  absl::string_view piece_;    // What libarchive has not got yet.
  absl::Status source_error_;  // Why `Read` failed.
  uint64_t header_bytes_ = 0;  // Read since the last entry's data.
  std::string name_;           // Of the entry at hand, as in the archive.
  int64_t entries_ = 0;
  UnpackResult result_;
};

absl::Status Unpacker::UnpackEntry(archive_entry* entry) {
  const char* name = archive_entry_pathname(entry);
  if (name == nullptr) name = archive_entry_pathname_utf8(entry);
  name_ = name == nullptr ? "" : name;
  ++entries_;
  RETURN_IF_ERROR(CheckCount());
  ASSIGN_OR_RETURN(const PathParts path, CheckName());
  RETURN_IF_ERROR(CheckKind(entry));
  if (archive_entry_filetype(entry) == AE_IFDIR) {
    if (!IsJunk(path)) {
      const absl::Status made = writer_.MakeFolder(path);
      if (!made.ok()) return Named(made);
    }
    return CheckCount();
  }
  if (path.empty()) return Refuse("is a file without a name");
  if (IsJunk(path)) return CopyData(entry, -1);
  return WriteFile(entry, path);
}

absl::Status Unpacker::CheckCount() const {
  if (entries_ + writer_.folders() > limits_.max_files) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the archive holds more than ", limits_.max_files,
                     " files and folders"));
  }
  return CheckTotal();
}

// Each file and folder takes a block of the disk, however little is in it.
absl::Status Unpacker::CheckTotal() const {
  const uint64_t total =
      static_cast<uint64_t>(result_.bytes) +
      kBlockBytes * static_cast<uint64_t>(entries_ + writer_.folders());
  if (total <= limits_.max_total_bytes) return absl::OkStatus();
  return Exhausted(absl::StrCat("the archive unpacks to more than ",
                                limits_.max_total_bytes, " bytes"));
}

absl::StatusOr<PathParts> Unpacker::CheckName() const {
  if (name_.empty()) return Refuse("has no readable name");
  if (name_.size() > kMaxPathBytes) {
    return Refuse("has a name of more than 4096 bytes");
  }
  if (name_.front() == '/') return Refuse("has an absolute path");
  if (absl::StrContains(name_, '\\')) return Refuse("has a backslash in it");
  PathParts path;
  for (const absl::string_view part : absl::StrSplit(name_, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return Refuse("leads out of the archive");
    if (part.size() > kMaxPartBytes) {
      return Refuse("has a part of more than 255 bytes");
    }
    path.emplace_back(part);
  }
  if (path.size() > kMaxDepth) return Refuse("is more than 32 folders deep");
  return path;
}

absl::Status Unpacker::CheckKind(archive_entry* entry) const {
  const auto type = archive_entry_filetype(entry);
  if (type == AE_IFLNK || archive_entry_hardlink(entry) != nullptr ||
      archive_entry_symlink(entry) != nullptr) {
    return Refuse("is a link; send the file itself");
  }
  if (type != AE_IFREG && type != AE_IFDIR) {
    return Refuse("is a device or a pipe");
  }
  if (archive_entry_is_encrypted(entry)) return Refuse("is encrypted");
  // Other methods need memory as the archive wishes. Only the format's name
  // tells them.
  const char* const name = archive_format_name(archive_.get());
  const absl::string_view format = name == nullptr ? "" : name;
  if (archive_format(archive_.get()) == ARCHIVE_FORMAT_ZIP &&
      !absl::EndsWith(format, "(deflation)") &&
      !absl::EndsWith(format, "(uncompressed)")) {
    return Refuse("is compressed with another method than deflate");
  }
  return absl::OkStatus();
}

absl::Status Unpacker::WriteFile(archive_entry* entry, const PathParts& path) {
  absl::StatusOr<int> fd = writer_.CreateFile(path);
  if (!fd.ok()) return Named(fd.status());
  absl::Cleanup closing = [&] { close(*fd); };
  RETURN_IF_ERROR(CheckCount());
  RETURN_IF_ERROR(CopyData(entry, *fd));
  std::move(closing).Cancel();
  if (close(*fd) != 0) {  // Some file systems tell only now.
    return Named(absl::ErrnoToStatus(errno, "cannot be written"));
  }
  ++result_.files;
  return absl::OkStatus();
}

absl::Status Unpacker::CopyData(archive_entry* entry, int fd) {
  uint64_t copied = 0;
  for (;;) {
    header_bytes_ = 0;
    const void* buffer = nullptr;
    size_t size = 0;
    la_int64_t offset = 0;
    const int result =
        archive_read_data_block(archive_.get(), &buffer, &size, &offset);
    if (result == ARCHIVE_EOF) break;
    if (result != ARCHIVE_OK) return ArchiveError();
    if (static_cast<uint64_t>(offset) != copied) return Refuse("is sparse");
    copied += size;
    result_.bytes += static_cast<int64_t>(size);
    if (copied > limits_.max_file_bytes) {
      return Exhausted(absl::StrCat("a file may have at most ",
                                    limits_.max_file_bytes, " bytes"));
    }
    RETURN_IF_ERROR(CheckTotal());
    if (source_.IsOverRatio(static_cast<uint64_t>(result_.bytes))) {
      return RatioError(limits_.max_ratio);
    }
    RETURN_IF_ERROR(Write(fd, {static_cast<const char*>(buffer), size}));
  }
  if (archive_entry_size_is_set(entry) &&
      static_cast<uint64_t>(archive_entry_size(entry)) != copied) {
    return Refuse("is sparse, or has another size than it says");
  }
  return absl::OkStatus();
}

absl::Status Unpacker::Write(int fd, absl::string_view bytes) const {
  while (fd >= 0 && !bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Named(absl::ErrnoToStatus(errno, "cannot be written"));
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UnpackResult> UnpackArchive(const ReadFn& read,
                                           const std::filesystem::path& dir,
                                           const UnpackLimits& limits) {
  const Utf8Locale locale;
  ASSIGN_OR_RETURN(const std::unique_ptr<FolderWriter> writer,
                   FolderWriter::Open(dir));
  return Unpacker(read, *writer, limits).Run();
}

}  // namespace finetune
