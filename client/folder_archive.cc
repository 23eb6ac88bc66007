#include "client/folder_archive.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <memory>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "archive.h"
#include "archive_entry.h"
#include "common/status_macros.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPieceBytes = 256 << 10;

bool IsHidden(const fs::path& path) {
  return path.filename().native().starts_with('.');
}

absl::Status ListError(const std::error_code& error, const fs::path& path) {
  return absl::ErrnoToStatus(error.value(),
                             absl::StrCat("list ", path.native()));
}

// Appends `folder`, called `name` in the archive, and the files below it.
absl::Status AddClass(const fs::path& folder, const std::string& name,
                      std::vector<FolderEntry>& entries) {
  entries.push_back({name, folder, true});  // Also where it is empty.
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end;
       !error && it != end; it.increment(error)) {
    std::error_code ignored;  // A dangling link is no file.
    if (IsHidden(it->path())) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file(ignored)) {
      entries.push_back(
          {absl::StrCat(name, "/",
                        it->path().lexically_relative(folder).generic_string()),
           it->path(), false});
    }
  }
  return error ? ListError(error, folder) : absl::OkStatus();
}

absl::Status AddSplit(const fs::path& folder, const std::string& split,
                      std::vector<FolderEntry>& entries) {
  std::error_code error;
  for (fs::directory_iterator it(folder / split, error), end;
       !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (!it->is_directory(ignored) || IsHidden(it->path())) continue;
    RETURN_IF_ERROR(AddClass(
        it->path(), absl::StrCat(split, "/", it->path().filename().native()),
        entries));
  }
  return error ? ListError(error, folder / split) : absl::OkStatus();
}

// libarchive's writer, whose output goes to a sink.
class TarWriter {
 public:
  explicit TarWriter(const SinkFn& sink)
      : sink_(sink), archive_(archive_write_new(), archive_write_free) {
    // GNU's format takes names as bytes, whatever the locale is.
    archive_write_set_format_gnutar(archive_.get());
    archive_write_set_bytes_per_block(archive_.get(), kPieceBytes);
    archive_write_set_bytes_in_last_block(archive_.get(), 1);
    archive_write_open(archive_.get(), this, nullptr, &TarWriter::OnWrite,
                       nullptr);
  }

  absl::Status Add(const FolderEntry& item);

  absl::Status Close() {
    return archive_write_close(archive_.get()) == ARCHIVE_OK ? absl::OkStatus()
                                                             : Error();
  }

 private:
  static la_ssize_t OnWrite(archive* a, void* self, const void* bytes,
                            size_t size) {
    return static_cast<TarWriter*>(self)->Write(
        a, {static_cast<const char*>(bytes), size});
  }

  la_ssize_t Write(archive* a, absl::string_view bytes) {
    // Closing writes what is left, also after an error.
    if (sink_status_.ok()) sink_status_ = sink_(bytes);
    if (sink_status_.ok()) return static_cast<la_ssize_t>(bytes.size());
    archive_set_error(a, EIO, "write");
    return -1;
  }

  absl::Status Error() const {
    RETURN_IF_ERROR(sink_status_);
    const char* const why = archive_error_string(archive_.get());
    return absl::InternalError(
        absl::StrCat("pack: ", why == nullptr ? "unknown error" : why));
  }

  const SinkFn& sink_;
  absl::Status sink_status_;
  const std::unique_ptr<archive, int (*)(archive*)> archive_;
};

absl::Status TarWriter::Add(const FolderEntry& item) {
  std::ifstream file;
  uint64_t left = 0;
  if (!item.is_folder) {
    std::error_code error;
    left = fs::file_size(item.path, error);
    file.open(item.path, std::ios::binary);
    if (error || !file) {
      return absl::ErrnoToStatus(error ? error.value() : errno,
                                 absl::StrCat("open ", item.path.native()));
    }
  }
  const std::unique_ptr<archive_entry, void (*)(archive_entry*)> entry(
      archive_entry_new(), archive_entry_free);
  archive_entry_copy_pathname(entry.get(), item.name.c_str());
  archive_entry_set_filetype(entry.get(), item.is_folder ? AE_IFDIR : AE_IFREG);
  archive_entry_set_perm(entry.get(), item.is_folder ? 0755 : 0644);
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(left));
  archive_entry_set_mtime(entry.get(), 0, 0);
  if (archive_write_header(archive_.get(), entry.get()) != ARCHIVE_OK) {
    return Error();
  }
  std::vector<char> piece(std::min<uint64_t>(left, kPieceBytes));
  while (left > 0) {
    const size_t size = std::min<uint64_t>(left, piece.size());
    if (!file.read(piece.data(), static_cast<std::streamsize>(size))) {
      return absl::AbortedError(absl::StrCat(
          item.path.native(), " cannot be read to its end, or has changed"));
    }
    if (archive_write_data(archive_.get(), piece.data(), size) !=
        static_cast<la_ssize_t>(size)) {
      return Error();
    }
    left -= size;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<FolderEntry>> ListFolder(const fs::path& folder) {
  std::error_code ignored;
  if (!fs::is_directory(folder / "train", ignored)) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder.native(), " has no folder train/<class>/"));
  }
  const char* const test =
      fs::is_directory(folder / "test", ignored) ? "test" : "val";
  std::vector<FolderEntry> entries;
  RETURN_IF_ERROR(AddSplit(folder, "train", entries));
  if (!fs::is_directory(folder / test, ignored)) {
    return absl::FailedPreconditionError(absl::StrCat(
        folder.native(), " has neither test/<class>/ nor val/<class>/"));
  }
  RETURN_IF_ERROR(AddSplit(folder, test, entries));
  std::sort(entries.begin(), entries.end(),
            [](const FolderEntry& a, const FolderEntry& b) {
              return a.name < b.name;
            });
  return entries;
}

absl::Status PackFolder(const std::vector<FolderEntry>& entries,
                        const SinkFn& sink) {
  TarWriter writer(sink);
  for (const FolderEntry& entry : entries) RETURN_IF_ERROR(writer.Add(entry));
  return writer.Close();
}

}  // namespace finetune
