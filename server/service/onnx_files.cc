#include "server/service/onnx_files.h"

#include <system_error>
#include <utility>

namespace finetune {
namespace {

namespace fs = std::filesystem;

constexpr char kOnnxFile[] = "model.onnx";

bool Exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

}  // namespace

OnnxFiles::OnnxFiles(ExportFn export_model)
    : export_(std::move(export_model)), worker_([this] { Work(); }) {}

OnnxFiles::~OnnxFiles() {
  const MutexLock lock(mu_);
  closing_ = true;
}

void OnnxFiles::Get(const v1::Model& model, const fs::path& dir,
                    ReadyFn ready) {
  fs::path path = dir / kOnnxFile;
  if (Exists(path)) return ready(std::move(path));
  const MutexLock lock(mu_);
  waiting_.push_back({model, std::move(path), std::move(ready)});
}

void OnnxFiles::Work() {
  for (;;) {
    Order order;
    {
      const MutexLock lock(mu_);
      mu_.Await([this] { return closing_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      order = std::move(waiting_.front());
      waiting_.pop_front();
    }
    absl::Status status;  // An order before may have been for the same file.
    if (!Exists(order.path)) status = export_(order.model, order.path);
    if (status.ok()) {
      order.ready(std::move(order.path));
    } else {
      order.ready(status);
    }
  }
}

}  // namespace finetune
