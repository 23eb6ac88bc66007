// Everything behind the services that classify, as it is, around a model that
// only pretends: an image "bee" is 90 % bee, "noise" is no image.

#ifndef SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_
#define SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"
#include "server/inference/batcher.h"
#include "server/inference/classifier.h"
#include "server/inference/model_cache.h"
#include "server/model/registry.h"
#include "server/state/database.h"

namespace finetune::testing {

// Lets batches through, or holds them back while it is closed.
class Gate {
 public:
  void Close() ABSL_LOCKS_EXCLUDED(mu_) { Set(true); }
  void Open() ABSL_LOCKS_EXCLUDED(mu_) { Set(false); }
  void Pass() ABSL_LOCKS_EXCLUDED(mu_) {
    {
      const MutexLock lock(mu_);  // Its end wakes AwaitArrival.
      arrived_ = true;
    }
    const MutexLock lock(mu_);
    mu_.Await([this] { return !closed_; });
  }
  // Returns when a batch stands before the gate, or has passed it.
  void AwaitArrival() ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    mu_.Await([this] { return arrived_; });
  }

 private:
  void Set(bool closed) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    closed_ = closed;
  }

  Mutex mu_;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  bool arrived_ ABSL_GUARDED_BY(mu_) = false;
};

inline BatchResult FakeClassify(absl::Span<const absl::string_view> images) {
  BatchResult result;
  for (const absl::string_view image : images) {
    if (image == "noise") {
      result.images.push_back(absl::InvalidArgumentError("not an image"));
    } else {
      result.images.push_back(Probabilities{0.08f, 0.9f, 0.02f});
    }
  }
  return result;
}

struct FakeInference {
  explicit FakeInference(Batcher::Options options = {}) : batcher(options) {}

  // The next version of `name`, with the labels ant, bee and cat.
  void Publish(const std::string& name, bool promote = true) {
    dir.Write("staging/weights.safetensors", "");
    v1::Model model;
    for (const char* label : {"ant", "bee", "cat"}) model.add_labels(label);
    ASSERT_THAT(WriteModelFile(dir.path() / "staging", model), IsOk());
    const auto staged = registry->Stage(name, dir.path() / "staging");
    ASSERT_THAT(staged, IsOk());
    ASSERT_THAT(database->Commit([&](Transaction& transaction) {
      return registry->Insert(*staged, promote, transaction);
    }),
                IsOk());
    registry->Adopt(*staged, promote);
  }

  const TempDir dir;
  const std::unique_ptr<Database> database = *Database::Open(dir.path() / "db");
  const std::unique_ptr<ModelRegistry> registry =
      *ModelRegistry::Open(dir.path() / "models", *database);
  Gate gate;                     // Before each batch.
  std::atomic<int> asked = 0;    // Calls of the classifier, refused ones too.
  std::atomic<int> seen = 0;     // Images that the model has answered.
  std::atomic<int> waiting = 0;  // The most that were asked and not yet seen.
  ModelCache models{2, [this](const v1::Model&) -> absl::StatusOr<ClassifyFn> {
                      return [this](const auto& images) {
                        gate.Pass();
                        waiting = std::max<int>(waiting, asked - seen);
                        seen += static_cast<int>(images.size());
                        return FakeClassify(images);
                      };
                    }};
  Batcher batcher;
  Classifier classifier{[this](const auto& ref) {
                          ++asked;
                          return registry->Resolve(ref);
                        },
                        models, batcher};
};

}  // namespace finetune::testing

#endif  // SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_
