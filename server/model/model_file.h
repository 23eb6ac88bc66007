// The files of a published model, each on its own.

#ifndef SERVER_MODEL_MODEL_FILE_H_
#define SERVER_MODEL_MODEL_FILE_H_

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "finetune/v1/model.pb.h"

namespace finetune {

inline constexpr char kModelFile[] = "model.json";
inline constexpr char kWeightsFile[] = "weights.safetensors";

// Writes `dir`/model.json, protobuf's JSON of `model`.
absl::Status WriteModelFile(const std::filesystem::path& dir,
                            const v1::Model& model);

// Reads it. DATA_LOSS if it is damaged or one of the files is not there.
absl::StatusOr<v1::Model> ReadModelFile(const std::filesystem::path& dir);

// DATA_LOSS unless both files are in `dir`.
absl::Status CheckModelFiles(const std::filesystem::path& dir);

// DATA_LOSS unless the weights in `dir` have the SHA-256 that `model` records,
// if it does. Reads the file once, in pieces; NOT_FOUND and what else reading
// it gives.
absl::Status CheckWeightsFile(const std::filesystem::path& dir,
                              const v1::Model& model);

// "cats@3"; "cats" where there is no version.
std::string ModelRefText(const v1::ModelRef& ref);

}  // namespace finetune

#endif  // SERVER_MODEL_MODEL_FILE_H_
