#include "client/image_list.h"

#include <algorithm>
#include <system_error>

#include "absl/strings/ascii.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

void AddFolder(const fs::path& folder, ImageList& list) {
  std::error_code error;
  std::vector<fs::directory_entry> entries;
  for (fs::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    entries.push_back(*it);
  }
  if (error) list.files.push_back(folder.native());
  std::sort(entries.begin(), entries.end());
  for (const fs::directory_entry& entry : entries) {
    if (entry.path().filename().native().front() == '.') continue;
    if (entry.is_directory(error) && !entry.is_symlink(error)) {
      AddFolder(entry.path(), list);
    } else if (IsImageName(entry.path()) && !entry.is_directory(error)) {
      list.files.push_back(entry.path().native());
    } else {
      ++list.skipped;
    }
  }
}

}  // namespace

bool IsImageName(const fs::path& path) {
  const std::string extension =
      absl::AsciiStrToLower(path.extension().native());
  return extension == ".jpg" || extension == ".jpeg" || extension == ".png" ||
         extension == ".bmp" || extension == ".webp";
}

ImageList ListImages(const std::vector<std::string>& paths) {
  ImageList list;
  for (const std::string& path : paths) {
    std::error_code error;
    if (fs::is_directory(path, error)) {
      AddFolder(path, list);
    } else {
      list.files.push_back(path);
    }
  }
  return list;
}

}  // namespace finetune
