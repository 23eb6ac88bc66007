// Everything behind the services that classify, as it is, around a model that
// only pretends: an image "bee" is 90 % bee, "noise" is no image.

#ifndef SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_
#define SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"
#include "server/inference/batcher.h"
#include "server/inference/classifier.h"
#include "server/inference/model_cache.h"
#include "server/inference/testing/gate.h"
#include "server/model/registry.h"
#include "server/service/call_log.h"
#include "server/service/open_inference_service.h"
#include "server/state/database.h"

namespace finetune::testing {

struct FakeInference {
  explicit FakeInference(Batcher::Options options = {})
      : batcher(
            [&] {
              options.input_bytes = 1;
              return options;
            }(),
            Preprocess) {}

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

  // What the Open Inference Protocol asks of others.
  OpenInferenceService::Doors OpenInferenceDoors(
      std::function<bool()> is_ready = [] { return true; }) const {
    return {
        .resolve = [this](const auto& ref) { return registry->Resolve(ref); },
        .list_models = [this] { return registry->All(); },
        .is_ready = std::move(is_ready)};
  }

  const TempDir dir;
  const std::unique_ptr<Database> database = *Database::Open(dir.path() / "db");
  const std::unique_ptr<ModelRegistry> registry =
      *ModelRegistry::Open(dir.path() / "models", *database);
  Gate gate{/*open=*/true};      // Before each batch.
  std::atomic<int> asked = 0;    // Calls of the classifier, refused ones too.
  std::atomic<int> seen = 0;     // Images that the model has answered.
  std::atomic<int> waiting = 0;  // The most that were asked and not yet seen.
  // Has room for two models.
  ModelCache models{2, [this](const v1::Model&) -> absl::StatusOr<LoadedModel> {
                      return LoadedModel{
                          [this](const auto& inputs, int /*threads*/) {
                            return Forward(inputs.size());
                          },
                          /*bytes=*/1};
                    }};
  Batcher batcher;
  Classifier classifier{[this](const auto& ref) {
                          ++asked;
                          return registry->Resolve(ref);
                        },
                        models, batcher};
  CallLog calls{{}, [](const CallRecord&) {}};

 private:
  static absl::Status Preprocess(absl::string_view image,
                                 absl::Span<uint8_t> /*input*/) {
    if (image == "noise") return absl::InvalidArgumentError("not an image");
    return absl::OkStatus();
  }

  std::vector<Probabilities> Forward(size_t images) {
    gate.Pass();
    waiting = std::max<int>(waiting, asked - seen);
    seen += static_cast<int>(images);
    return std::vector<Probabilities>(images, {0.08f, 0.9f, 0.02f});
  }
};

}  // namespace finetune::testing

#endif  // SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_
