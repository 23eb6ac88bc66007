// A data set on disk: train/<class>/... and test/<class>/... (or val/), in
// the order in which torchvision.datasets.ImageFolder would list it.

#ifndef SERVER_DATA_IMAGE_FOLDER_H_
#define SERVER_DATA_IMAGE_FOLDER_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace finetune {

struct Sample {
  std::filesystem::path path;
  int64_t label = 0;  // Index into ImageFolder::classes.
};

struct ImageFolder {
  std::filesystem::path root;
  std::vector<std::string> classes;  // The folders of train/, sorted.
  std::vector<Sample> train;
  std::vector<Sample> test;
};

// Lists every file below the class folders, of whatever kind; names that begin
// with a dot are left out. Links to files and class folders are followed, but
// not out of `boundary`, a folder that is absolute and without links; empty:
// anywhere. Opens no file: ScanDataset tells which ones are images.
//
// PERMISSION_DENIED if a link leads out of `boundary`.
// FAILED_PRECONDITION if there is no train/, neither test/ nor val/, fewer than
// two classes, a class whose name is not UTF-8 or without training files, a
// test class that is not trained, no test file, or more than 5,000,000 files.
absl::StatusOr<ImageFolder> OpenImageFolder(
    const std::filesystem::path& root,
    const std::filesystem::path& boundary = {});

// Whether `path`, links resolved, is `folder` or below it. `folder` as above.
bool IsBelow(const std::filesystem::path& path,
             const std::filesystem::path& folder);

}  // namespace finetune

#endif  // SERVER_DATA_IMAGE_FOLDER_H_
