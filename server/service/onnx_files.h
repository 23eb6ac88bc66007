// Models' ONNX files, made when they are first asked for, beside the weights.

#ifndef SERVER_SERVICE_ONNX_FILES_H_
#define SERVER_SERVICE_ONNX_FILES_H_

#include <deque>
#include <filesystem>
#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/mutex.h"
#include "finetune/v1/model.pb.h"

namespace finetune {

// Thread-safe. Makes one at a time, on a thread of its own, since each takes
// a model's memory twice.
class OnnxFiles {
 public:
  // Writes the model's ONNX file, whole or not at all.
  using ExportFn = std::function<absl::Status(
      const v1::Model& model, const std::filesystem::path& path)>;
  using ReadyFn = std::function<void(absl::StatusOr<std::filesystem::path>)>;

  explicit OnnxFiles(ExportFn export_model);

  // Finishes what waits.
  ~OnnxFiles();

  OnnxFiles(const OnnxFiles&) = delete;
  OnnxFiles& operator=(const OnnxFiles&) = delete;

  // Calls `ready` with the file of `model`, whose folder is `dir`, on this
  // object's thread, or before it returns where the file is there. As many wait
  // as callers let.
  void Get(const v1::Model& model, const std::filesystem::path& dir,
           ReadyFn ready) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Order {
    v1::Model model;
    std::filesystem::path path;
    ReadyFn ready;
  };

  void Work() ABSL_LOCKS_EXCLUDED(mu_);

  const ExportFn export_;
  Mutex mu_;
  std::deque<Order> waiting_ ABSL_GUARDED_BY(mu_);
  bool closing_ ABSL_GUARDED_BY(mu_) = false;
  std::jthread worker_;  // Last: starts when all above exists.
};

}  // namespace finetune

#endif  // SERVER_SERVICE_ONNX_FILES_H_
