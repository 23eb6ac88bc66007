#include "server/inference/classifier.h"

#include <future>

#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "gtest/gtest.h"
#include "server/inference/testing/gate.h"

namespace finetune {
namespace {

using testing::Gate;
using testing::IsOk;
using testing::StatusIs;

// One model, which loads when the gate opens.
class ClassifierTest : public ::testing::Test {
 protected:
  absl::StatusOr<v1::Model> Resolve() {
    if (deleted_) return NoSuchResourceError("model", "insects@1");
    v1::Model model;
    model.mutable_ref()->set_name("insects");
    model.mutable_ref()->set_version(1);
    return model;
  }
  absl::StatusOr<LoadedModel> Load() {
    gate_.Pass();
    if (!weights_.ok()) return weights_;
    return LoadedModel{[](absl::Span<const uint8_t* const> inputs, int) {
                         return std::vector<Probabilities>(inputs.size(), {1});
                       },
                       /*bytes=*/1};
  }
  std::future<absl::StatusOr<ClassifyAnswer>> Classify() {
    const auto answer =
        std::make_shared<std::promise<absl::StatusOr<ClassifyAnswer>>>();
    classifier_.Classify({.images = {"bee"}},
                         [answer](absl::StatusOr<ClassifyAnswer> result) {
                           answer->set_value(std::move(result));
                         });
    return answer->get_future();
  }

  Gate gate_;
  std::atomic<bool> deleted_ = false;
  absl::Status weights_;
  ModelCache models_{1, [this](const v1::Model&) { return Load(); }};
  Batcher batcher_{
      {.input_bytes = 1},
      [](absl::string_view, absl::Span<uint8_t>) { return absl::OkStatus(); }};
  Classifier classifier_{[this](const v1::ModelRef&) { return Resolve(); },
                         models_, batcher_};
};

TEST_F(ClassifierTest, LoadsTheModelWithoutHoldingUpTheCaller) {
  auto answer = Classify();  // Returns with the gate closed.
  gate_.Open();
  const auto result = answer.get();
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->servable->model.ref().name(), "insects");
  EXPECT_EQ(result->outcome.images.size(), 1u);
}

TEST_F(ClassifierTest, ModelDeletedBeforeItWasLoadedIsNotFound) {
  weights_ = absl::InternalError("no such file");
  auto answer = Classify();
  deleted_ = true;
  gate_.Open();
  EXPECT_THAT(answer.get(), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ClassifierTest, ModelThatDoesNotLoadHasTheErrorOfItsLoad) {
  weights_ = absl::DataLossError("damaged");
  gate_.Open();
  EXPECT_THAT(Classify().get(), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace finetune
