// The images that a command line means.

#ifndef CLIENT_IMAGE_LIST_H_
#define CLIENT_IMAGE_LIST_H_

#include <filesystem>
#include <string>
#include <vector>

namespace finetune {

struct ImageList {
  std::vector<std::string> files;  // In the order of the paths.
  size_t skipped = 0;              // Files in folders that are no images.
};

// Whether the name ends in jpg, jpeg, png, bmp or webp, in any case.
bool IsImageName(const std::filesystem::path& path);

// Takes a folder for the images in it and in all folders below, sorted by path:
// those of an IsImageName. What begins with a dot is left out; links to files
// are followed, links to folders are not, unless `paths` names them. Any other
// path stands for itself, whether it exists or not, and so does a folder that
// cannot be read: it fails when it is opened.
ImageList ListImages(const std::vector<std::string>& paths);

}  // namespace finetune

#endif  // CLIENT_IMAGE_LIST_H_
