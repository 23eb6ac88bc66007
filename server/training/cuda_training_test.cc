// Training on a GPU. Skipped where there is none.

#include <stop_token>
#include <string>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/training/fine_tuner.h"
#include "server/training/testing/tiny_job.h"
#include "torch/torch.h"

namespace finetune {
namespace {

using testing::Image;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

class CudaTrainingTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA GPU here";
    for (const char* number : {"1", "2", "3", "4", "5", "6"}) {
      for (const std::string split : {"train/", "test/"}) {
        data_.Write(split + "a/" + number, Image("landscape_420.jpg"));
        data_.Write(split + "b/" + number, Image("grey.jpg"));
      }
    }
  }

  trainer::TrainerSpec Spec() const {
    trainer::TrainerSpec spec = testing::TinySpec();
    spec.set_device("cuda:0");
    spec.set_checkpoint_dir(checkpoints_.path());
    spec.mutable_hyper_parameters()->set_head_learning_rate(0.01);
    spec.mutable_hyper_parameters()->set_epochs(3);
    return spec;
  }

  const TempDir data_, checkpoints_;
};

TEST_F(CudaTrainingTest, LossFalls) {
  const Dataset dataset = testing::ScanTiny(data_);
  auto tuner = FineTuner::Create(Spec(), dataset);
  ASSERT_THAT(tuner, IsOk());
  v1::Progress last;
  ASSERT_THAT(tuner->Run([&](const auto& p) { last = p; }, {}), IsOk());
  ASSERT_EQ(last.epochs_size(), 3);
  EXPECT_LT(last.epochs(2).train_loss(), last.epochs(0).train_loss());
}

TEST_F(CudaTrainingTest, StoppedTrainingGoesOnFromItsCheckpoint) {
  const Dataset dataset = testing::ScanTiny(data_);
  std::stop_source stop;
  auto stopped = FineTuner::Create(Spec(), dataset);
  ASSERT_THAT(stopped, IsOk());
  EXPECT_THAT(
      stopped->Run([&](const auto&) { stop.request_stop(); }, stop.get_token()),
      StatusIs(absl::StatusCode::kCancelled));

  auto tuner = FineTuner::Create(Spec(), dataset);
  ASSERT_THAT(tuner, IsOk());
  EXPECT_EQ(tuner->resumed(), "epoch 1, step 1 of 4");
  v1::Progress last;
  ASSERT_THAT(tuner->Run([&](const auto& p) { last = p; }, {}), IsOk());
  EXPECT_EQ(last.epochs_size(), 3);
  EXPECT_EQ(last.step(), 12);
}

}  // namespace
}  // namespace finetune
