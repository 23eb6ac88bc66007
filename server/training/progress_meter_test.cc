#include "server/training/progress_meter.h"

#include <utility>

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

// Stops in the middle of the second epoch, an hour passes, and another meter
// goes on.
TEST_F(ProgressMeterTest, RestoredMeterGoesOnAsIfNoTimeHadPassed) {
  const auto step = [&](ProgressMeter& meter, int images = 4) {
    now_ += absl::Seconds(2);
    meter.TrainStep(images, absl::Seconds(1));
  };
  meter_.BeginEpoch(1);
  for (const int images : {4, 4, 2}) step(meter_, images);
  meter_.TestStep(10);
  meter_.EndEpoch(WithAccuracy(0.5));
  meter_.BeginEpoch(2);
  step(meter_);
  meter_.AddWarning("strange");
  trainer::CheckpointState state;
  meter_.Save(state);

  now_ += absl::Hours(1);
  ProgressMeter other(
      {.epochs = 2, .batch_size = 4, .train_images = 10, .test_images = 10},
      [this] { return now_; });
  other.Restore(state);
  EXPECT_EQ(other.epoch_steps(), 1);
  EXPECT_EQ(other.progress().SerializeAsString(),
            meter_.progress().SerializeAsString());

  now_ -= absl::Hours(1);
  step(meter_);
  now_ += absl::Hours(1) - absl::Seconds(2);
  step(other);
  EXPECT_EQ(other.progress().SerializeAsString(),
            meter_.progress().SerializeAsString());
  EXPECT_EQ(other.progress().warnings(0), "strange");
}

TEST_F(ProgressMeterTest, FractionWaitsWhileAnInterruptedTestIsDoneAgain) {
  meter_.BeginEpoch(1);
  meter_.TrainStep(10, absl::ZeroDuration());
  meter_.TestStep(9);
  const double before = meter_.progress().fraction_done();
  trainer::CheckpointState state;
  meter_.Save(state);
  meter_.Restore(state);
  EXPECT_EQ(meter_.progress().fraction_done(), before);
  meter_.TestStep(5);
  EXPECT_EQ(meter_.progress().fraction_done(), before);
  meter_.TestStep(5);
  EXPECT_DOUBLE_EQ(meter_.progress().fraction_done(), 0.5);
}

TEST(ProgressMeterSizeTest, OldestEpochsLoseTheirDetailsAndTheBestKeepsThem) {
  ProgressMeter meter(
      {.epochs = 100, .batch_size = 1, .train_images = 1, .test_images = 1});
  for (int epoch = 1; epoch <= 100; ++epoch) {
    meter.BeginEpoch(epoch);
    v1::EpochMetrics metrics;
    metrics.set_test_accuracy(epoch == 2 ? 0.9 : 0.5);
    for (int k = 0; k < 10'000; ++k) metrics.add_confusion(k);
    for (int k = 0; k < 100; ++k) metrics.add_classes()->set_recall(0.5);
    meter.EndEpoch(std::move(metrics));
  }
  const v1::Progress& progress = meter.progress();
  EXPECT_LE(progress.ByteSizeLong(), 768u << 10);
  EXPECT_EQ(progress.epochs_size(), 100);
  EXPECT_EQ(progress.epochs(0).confusion_size(), 0);
  EXPECT_EQ(progress.epochs(1).confusion_size(), 10'000);
  EXPECT_EQ(progress.epochs(2).classes_size(), 0);
  EXPECT_EQ(progress.epochs(99).classes_size(), 100);
}

TEST_F(ProgressMeterTest, BestEpochIsTheLaterOfEquals) {
  meter_.BeginEpoch(1);
  EXPECT_TRUE(meter_.EndEpoch(WithAccuracy(0.8)));
  meter_.BeginEpoch(2);
  EXPECT_TRUE(meter_.EndEpoch(WithAccuracy(0.8)));
  EXPECT_EQ(meter_.progress().best_epoch(), 2);
}

TEST_F(ProgressMeterTest, EpochThatIsNotFiniteIsNeverTheBest) {
  meter_.BeginEpoch(1);
  EXPECT_FALSE(meter_.EndEpoch(WithAccuracy(0.9), /*finite=*/false));
  EXPECT_EQ(meter_.progress().best_epoch(), 0);
  meter_.BeginEpoch(2);
  EXPECT_TRUE(meter_.EndEpoch(WithAccuracy(0.1)));
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
