#include "server/training/progress_meter.h"

#include "gtest/gtest.h"

namespace finetune {
namespace {

class ProgressMeterTest : public ::testing::Test {
 protected:
  v1::EpochMetrics WithAccuracy(double accuracy) {
    v1::EpochMetrics metrics;
    metrics.set_test_accuracy(accuracy);
    return metrics;
  }

  absl::Time now_ = absl::UnixEpoch();
  ProgressMeter meter_{
      {.epochs = 2, .batch_size = 4, .train_images = 10, .test_images = 10},
      [this] { return now_; }};
};

TEST_F(ProgressMeterTest, SpeedAndDataWaitAreOfTheEpochsTraining) {
  meter_.BeginEpoch(1);
  now_ += absl::Seconds(2);
  meter_.TrainStep(4, absl::Milliseconds(500));
  EXPECT_DOUBLE_EQ(meter_.progress().images_per_second(), 2);
  EXPECT_DOUBLE_EQ(meter_.progress().data_wait_fraction(), 0.25);
  EXPECT_EQ(meter_.progress().step(), 1);
  EXPECT_EQ(meter_.progress().total_steps(), 6);  // 3 an epoch: 4, 4, 2.
  now_ += absl::Seconds(8);
  meter_.TestStep(10);  // Does not count as training.
  meter_.EndEpoch(WithAccuracy(0.5));
  EXPECT_DOUBLE_EQ(meter_.progress().epochs(0).images_per_second(), 2);
  EXPECT_EQ(meter_.progress().epochs(0).duration().seconds(), 10);
}

TEST_F(ProgressMeterTest, FractionReachesOneAndTheEtaFollowsTheWorkLeft) {
  double last = 0;
  for (int epoch = 1; epoch <= 2; ++epoch) {
    meter_.BeginEpoch(epoch);
    for (const int images : {4, 4, 2}) {
      now_ += absl::Seconds(3 * images);
      meter_.TrainStep(images, absl::ZeroDuration());
      EXPECT_GT(meter_.progress().fraction_done(), last);
      last = meter_.progress().fraction_done();
    }
    now_ += absl::Seconds(10);
    meter_.TestStep(10);
    meter_.EndEpoch(WithAccuracy(0.5));
    EXPECT_EQ(meter_.progress().eta().seconds(), epoch == 1 ? 40 : 0);
  }
  EXPECT_DOUBLE_EQ(meter_.progress().fraction_done(), 1);
}

TEST_F(ProgressMeterTest, BestEpochIsTheLaterOfEquals) {
  meter_.BeginEpoch(1);
  EXPECT_TRUE(meter_.EndEpoch(WithAccuracy(0.8)));
  meter_.BeginEpoch(2);
  EXPECT_TRUE(meter_.EndEpoch(WithAccuracy(0.8)));
  EXPECT_EQ(meter_.progress().best_epoch(), 2);
}

TEST_F(ProgressMeterTest, WorseEpochIsNotTheBest) {
  meter_.BeginEpoch(1);
  EXPECT_TRUE(meter_.EndEpoch(WithAccuracy(0.8)));
  meter_.BeginEpoch(2);
  EXPECT_FALSE(meter_.EndEpoch(WithAccuracy(0.7)));
  EXPECT_EQ(meter_.progress().best_epoch(), 1);
}

}  // namespace
}  // namespace finetune
