// Archives for tests, made in memory.

#ifndef SERVER_DATASETS_TESTING_TEST_ARCHIVE_H_
#define SERVER_DATASETS_TESTING_TEST_ARCHIVE_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "archive.h"
#include "archive_entry.h"

namespace finetune::testing {

struct TestEntry {
  std::string path;
  std::string content;
  unsigned int type = AE_IFREG;
  std::string link;  // Target, of a symbolic or, where `type` is a file, hard
                     // link.
};

enum class ArchiveFormat { kTar, kPaxTar, kTarGz, kZip, kStoredZip };

inline la_ssize_t AppendToString(archive*, void* out, const void* bytes,
                                 size_t size) {
  static_cast<std::string*>(out)->append(static_cast<const char*>(bytes), size);
  return static_cast<la_ssize_t>(size);
}

inline void SetFormat(archive* a, ArchiveFormat format) {
  switch (format) {
    case ArchiveFormat::kTarGz:
      archive_write_add_filter_gzip(a);
      [[fallthrough]];
    case ArchiveFormat::kTar:
      archive_write_set_format_gnutar(a);
      break;
    case ArchiveFormat::kPaxTar:
      archive_write_set_format_pax(a);
      break;
    case ArchiveFormat::kStoredZip:
      archive_write_set_format_zip(a);
      archive_write_zip_set_compression_store(a);
      break;
    case ArchiveFormat::kZip:
      archive_write_set_format_zip(a);
      archive_write_zip_set_compression_deflate(a);
      break;
  }
}

// `tweak`, where given, sees each entry before it is written.
inline std::string MakeArchive(
    const std::vector<TestEntry>& entries,
    ArchiveFormat format = ArchiveFormat::kTar,
    const std::function<void(archive_entry*)>& tweak = nullptr) {
  std::string out;
  archive* const a = archive_write_new();
  SetFormat(a, format);
  archive_write_set_bytes_per_block(a, 0);
  archive_write_open(a, &out, nullptr, &AppendToString, nullptr);
  for (const TestEntry& item : entries) {
    archive_entry* const entry = archive_entry_new();
    archive_entry_copy_pathname(entry, item.path.c_str());
    archive_entry_set_filetype(entry, item.type);
    archive_entry_set_perm(entry, 06777);
    archive_entry_set_size(entry, static_cast<la_int64_t>(item.content.size()));
    if (!item.link.empty()) {
      if (item.type == AE_IFREG) {
        archive_entry_set_hardlink(entry, item.link.c_str());
      } else {
        archive_entry_set_symlink(entry, item.link.c_str());
      }
    }
    if (tweak) tweak(entry);
    archive_write_header(a, entry);
    archive_write_data(a, item.content.data(), item.content.size());
    archive_entry_free(entry);
  }
  archive_write_close(a);
  archive_write_free(a);
  return out;
}

// Two classes, at `top` ("" or "name/").
inline std::vector<TestEntry> SmallDataset(const std::string& top = "") {
  return {{top + "train/bee/1.jpg", "bee"},
          {top + "train/ant/1.jpg", "ant one"},
          {top + "test/bee/2.jpg", "bee two"}};
}

}  // namespace finetune::testing

#endif  // SERVER_DATASETS_TESTING_TEST_ARCHIVE_H_
