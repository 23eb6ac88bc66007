// Everything behind the services that classify, as it is, around a model that
// only pretends: an image "bee" is 90 % bee, "noise" is no image.

#ifndef SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_
#define SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_

#include <memory>
#include <string>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"
#include "server/inference/batcher.h"
#include "server/inference/classifier.h"
#include "server/inference/model_cache.h"
#include "server/model/registry.h"
#include "server/state/database.h"

namespace finetune::testing {

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
  ModelCache models{2, [](const v1::Model&) -> absl::StatusOr<ClassifyFn> {
                      return FakeClassify;
                    }};
  Batcher batcher{{}};
  Classifier classifier{
      [this](const auto& ref) { return registry->Resolve(ref); }, models,
      batcher};
};

}  // namespace finetune::testing

#endif  // SERVER_SERVICE_TESTING_FAKE_INFERENCE_H_
