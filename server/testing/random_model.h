// Models without a training.

#ifndef SERVER_TESTING_RANDOM_MODEL_H_
#define SERVER_TESTING_RANDOM_MODEL_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace finetune::testing {

// Writes the folder `models_dir`/`name`/`version` as a server keeps it: a
// ResNet18 with 8 classes, whose weights are drawn from `version`. Its
// probabilities tell images apart, and versions. A server that finds it where
// there is no database yet takes it in.
absl::Status WriteRandomModel(const std::filesystem::path& models_dir,
                              const std::string& name, int64_t version);

}  // namespace finetune::testing

#endif  // SERVER_TESTING_RANDOM_MODEL_H_
