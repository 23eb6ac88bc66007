#include "server/data/image_folder.h"

#include <algorithm>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/file.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "common/utf8.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFiles = 5'000'000;

absl::Status DatasetError(const fs::path& root, absl::string_view what) {
  return PreconditionError(
      "DATASET", root.filename().native(),
      absl::StrCat("data set ", root.filename().native(), ": ", what));
}

bool IsHidden(const fs::path& path) {
  return path.filename().native().starts_with('.');
}

absl::StatusOr<std::vector<std::string>> ClassFolders(const fs::path& dir) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(dir, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;  // A dangling link is no folder.
    if (it->is_directory(ignored) && !IsHidden(it->path())) {
      names.push_back(it->path().filename().native());
    }
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(),
                               absl::StrCat("list ", dir.native()));
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::vector<fs::path>> FilesBelow(const fs::path& dir) {
  std::vector<fs::path> files;
  std::error_code error;
  for (fs::recursive_directory_iterator it(dir, error), end;
       !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (IsHidden(it->path())) {
      it.disable_recursion_pending();
    } else if (it->is_regular_file(ignored)) {
      files.push_back(it->path());
    }
    if (files.size() > kMaxFiles) break;
  }
  if (error) {
    return absl::ErrnoToStatus(error.value(),
                               absl::StrCat("list ", dir.native()));
  }
  std::sort(files.begin(), files.end());
  return files;
}

// Appends the files of `split`/<class>/ for each class, in class order.
absl::StatusOr<std::vector<Sample>> ListSplit(const ImageFolder& folder,
                                              const fs::path& split) {
  std::vector<Sample> samples;
  for (size_t label = 0; label < folder.classes.size(); ++label) {
    const fs::path dir = split / folder.classes[label];
    if (!fs::exists(dir)) continue;
    ASSIGN_OR_RETURN(std::vector<fs::path> files, FilesBelow(dir));
    for (fs::path& file : files) {
      samples.push_back({std::move(file), static_cast<int64_t>(label)});
    }
    if (samples.size() > kMaxFiles) {
      return DatasetError(folder.root, "more than 5,000,000 files");
    }
  }
  return samples;
}

absl::Status CheckTestClasses(const ImageFolder& folder,
                              const fs::path& test_dir) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names,
                   ClassFolders(test_dir));
  for (const std::string& name : names) {
    if (!std::binary_search(folder.classes.begin(), folder.classes.end(),
                            name)) {
      return DatasetError(
          folder.root,
          absl::StrCat(test_dir.filename().native(), "/", name,
                       " has no counterpart in train/: add it or remove this"));
    }
  }
  return absl::OkStatus();
}

// Only a link can lead out: of the folders on the way, or the file itself.
absl::Status CheckBoundary(const ImageFolder& folder,
                           const fs::path& boundary) {
  fs::path checked;  // The folder of the sample before.
  for (const auto* split : {&folder.train, &folder.test}) {
    for (const Sample& sample : *split) {
      std::error_code ignored;
      const fs::path parent = sample.path.parent_path();
      const bool is_new = parent != checked;
      if ((is_new && !IsBelow(parent, boundary)) ||
          (fs::is_symlink(sample.path, ignored) &&
           !IsBelow(sample.path, boundary))) {
        return absl::PermissionDeniedError(absl::StrCat(
            "data set ", folder.root.filename().native(), ": ",
            ToUtf8(sample.path.lexically_relative(folder.root).native()),
            " leads out of the server's data root"));
      }
      checked = parent;
    }
  }
  return absl::OkStatus();
}

}  // namespace

bool IsBelow(const fs::path& path, const fs::path& folder) {
  std::error_code error;
  const fs::path real = fs::canonical(path, error);
  return !error && IsWithin(real, folder);
}

absl::StatusOr<ImageFolder> OpenImageFolder(const fs::path& root,
                                            const fs::path& boundary) {
  ImageFolder folder{.root = root};
  if (!fs::is_directory(root / "train")) {
    return DatasetError(root, "has no folder train/<class>/");
  }
  const fs::path test_dir =
      fs::is_directory(root / "test") ? root / "test" : root / "val";
  if (!fs::is_directory(test_dir)) {
    return DatasetError(root, "has neither test/<class>/ nor val/<class>/");
  }
  ASSIGN_OR_RETURN(folder.classes, ClassFolders(root / "train"));
  if (folder.classes.size() < 2) {
    return DatasetError(
        root, absl::StrCat("train/ has ", folder.classes.size(),
                           " class folder(s); at least 2 are needed"));
  }
  for (const std::string& name : folder.classes) {
    if (!IsUtf8(name)) {
      return DatasetError(root, absl::StrCat("the name of the class folder \"",
                                             ToUtf8(name), "\" is not UTF-8"));
    }
  }
  RETURN_IF_ERROR(CheckTestClasses(folder, test_dir));
  ASSIGN_OR_RETURN(folder.train, ListSplit(folder, root / "train"));
  ASSIGN_OR_RETURN(folder.test, ListSplit(folder, test_dir));
  if (!boundary.empty()) RETURN_IF_ERROR(CheckBoundary(folder, boundary));

  std::vector<bool> has_files(folder.classes.size());
  for (const Sample& sample : folder.train) has_files[sample.label] = true;
  for (size_t label = 0; label < has_files.size(); ++label) {
    if (!has_files[label]) {
      return DatasetError(root, absl::StrCat("train/", folder.classes[label],
                                             " holds no file"));
    }
  }
  if (folder.test.empty()) {
    return DatasetError(
        root, absl::StrCat(test_dir.filename().native(), "/ holds no file"));
  }
  return folder;
}

}  // namespace finetune
