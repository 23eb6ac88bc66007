#include "server/training/fine_tuner.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/safetensors.h"
#include "server/training/testing/tiny_job.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Image;
using testing::IsOk;
using testing::ScanTiny;
using testing::StatusIs;
using testing::TempDir;
using testing::TinySpec;
using testing::WriteTinyDataset;

// Two classes of four training and two test images.
class FineTunerTest : public ::testing::Test {
 protected:
  FineTunerTest() { WriteTinyDataset(dir_, /*train=*/4, /*test=*/2); }

  Dataset Scan() { return ScanTiny(dir_); }
  absl::StatusOr<FineTuner::Result> Train(const trainer::TrainerSpec& spec,
                                          const FineTuner::ReportFn& report,
                                          const std::stop_token& stop = {}) {
    const Dataset dataset = Scan();
    auto tuner = FineTuner::Create(spec, dataset);
    if (!tuner.ok()) return tuner.status();
    return tuner->Run(report, stop);
  }
  std::string TrainedBytes(const trainer::TrainerSpec& spec) {
    const auto result = Train(spec, [](const auto&) {});
    EXPECT_THAT(result, IsOk());
    return SerializeSafetensors(result->best);
  }

  const TempDir dir_;
};

TEST_F(FineTunerTest, SameJobGivesTheSameBitsWhateverTheDecodeThreads) {
  auto spec = TinySpec();
  const std::string once = TrainedBytes(spec);
  EXPECT_EQ(TrainedBytes(spec), once);
  spec.set_decode_threads(4);
  EXPECT_EQ(TrainedBytes(spec), once);
  spec.mutable_hyper_parameters()->set_seed(8);
  EXPECT_NE(TrainedBytes(spec), once);
}

TEST_F(FineTunerTest, ProgressIsCompleteAndNeverFalls) {
  std::vector<v1::Progress> reports;
  const auto result =
      Train(TinySpec(), [&](const v1::Progress& p) { reports.push_back(p); });
  ASSERT_THAT(result, IsOk());
  for (size_t i = 1; i < reports.size(); ++i) {
    EXPECT_GE(reports[i].fraction_done(), reports[i - 1].fraction_done());
  }
  const v1::Progress& last = reports.back();
  EXPECT_DOUBLE_EQ(last.fraction_done(), 1);
  EXPECT_EQ(last.step(), 6);  // 8 images: 3, 3, 2, twice.
  EXPECT_EQ(last.total_steps(), 6);
  ASSERT_EQ(last.epochs_size(), 2);
  for (const v1::EpochMetrics& epoch : last.epochs()) {
    EXPECT_GT(epoch.train_loss(), 0);
    EXPECT_GT(epoch.test_loss(), 0);
    EXPECT_GE(epoch.train_accuracy(), 0);
    EXPECT_LE(epoch.test_accuracy(), 1);
    EXPECT_GT(epoch.images_per_second(), 0);
  }
  EXPECT_DOUBLE_EQ(result->test_accuracy,
                   last.epochs(last.best_epoch() - 1).test_accuracy());
}

// Batch norm counts the batches that it saw in train mode: were it in eval
// mode while training there would be none, in train mode while testing more.
TEST_F(FineTunerTest, BatchNormLearnsWhileTrainingAndRestsWhileTesting) {
  auto spec = TinySpec();
  spec.mutable_hyper_parameters()->set_epochs(1);
  const auto result = Train(spec, [](const auto&) {});
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->best.at("bn1.num_batches_tracked").item<int64_t>(), 3);
  EXPECT_GT(result->best.at("bn1.running_mean").abs().max().item<float>(), 0);
}

TEST_F(FineTunerTest, ConfusionMatrixAndRecallAgreeWithTheTestAccuracy) {
  dir_.Write("test/b/3", Image("rgb24.bmp"));
  v1::Progress last;
  ASSERT_THAT(Train(TinySpec(), [&](const auto& p) { last = p; }), IsOk());
  for (const v1::EpochMetrics& epoch : last.epochs()) {
    ASSERT_EQ(epoch.confusion_size(), 4);
    EXPECT_EQ(epoch.confusion(0) + epoch.confusion(1), 2);  // Of class a.
    EXPECT_EQ(epoch.confusion(2) + epoch.confusion(3), 3);
    EXPECT_DOUBLE_EQ(
        epoch.test_accuracy(),
        static_cast<double>(epoch.confusion(0) + epoch.confusion(3)) / 5);
    EXPECT_DOUBLE_EQ(epoch.classes(1).recall(),
                     static_cast<double>(epoch.confusion(3)) / 3);
  }
}

TEST_F(FineTunerTest, OvershootAndDuplicatesAreWarnedOf) {
  dir_.Write("test/b/copy", Image("rgb.png"));
  auto spec = TinySpec();
  spec.mutable_hyper_parameters()->set_head_learning_rate(1);
  v1::Progress last;
  ASSERT_THAT(Train(spec, [&](const auto& p) { last = p; }), IsOk());
  ASSERT_GT(last.epochs(0).train_loss(), 3);  // Else this test is of no use.
  ASSERT_GE(last.warnings_size(), 2);
  EXPECT_THAT(last.warnings(0), HasSubstr("1 of 5 test images are also in"));
  EXPECT_THAT(last.warnings(1), HasSubstr("epoch 1 overshoots"));
}

TEST_F(FineTunerTest, CalmTrainingHasNoWarnings) {
  auto spec = TinySpec();
  spec.mutable_hyper_parameters()->set_head_learning_rate(0.01);
  v1::Progress last;
  ASSERT_THAT(Train(spec, [&](const auto& p) { last = p; }), IsOk());
  EXPECT_THAT(last.warnings(), ElementsAre());
}

TEST_F(FineTunerTest, StopRequestEndsTheTraining) {
  std::stop_source stop;
  const auto result = Train(
      TinySpec(), [&](const auto&) { stop.request_stop(); }, stop.get_token());
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(FineTunerTest, LossThatIsNotFiniteNamesTheStepAndTheLearningRate) {
  auto spec = TinySpec();
  spec.mutable_hyper_parameters()->set_learning_rate(10);
  spec.mutable_hyper_parameters()->set_head_learning_rate(100);
  spec.mutable_hyper_parameters()->set_weight_decay(1);
  spec.mutable_hyper_parameters()->set_epochs(30);
  const auto result = Train(spec, [](const auto&) {});
  ASSERT_THAT(result, StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("learning rates 10 (features) and 100 (fc)"));
}

// One step, whose loss is that before it: only the weights after it, and what
// they answer in the test, are beyond all numbers.
TEST_F(FineTunerTest, EpochThatEndsWithoutFiniteNumbersIsNoResult) {
  auto spec = TinySpec();
  spec.mutable_hyper_parameters()->set_learning_rate(1e30);
  spec.mutable_hyper_parameters()->set_batch_size(100);
  spec.mutable_hyper_parameters()->set_epochs(1);
  v1::Progress last;
  const auto result = Train(spec, [&](const auto& p) { last = p; });
  ASSERT_THAT(result, StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("try a tenth of them"));
  EXPECT_EQ(last.best_epoch(), 0);
  EXPECT_THAT(last.warnings(),
              ::testing::Contains(HasSubstr("NaN or infinite")));
}

TEST_F(FineTunerTest, PretrainedWeightsThatAreNotFiniteAreNamed) {
  StateDict pretrained = StateDictOf(*ResNet18(3));
  pretrained["layer1.0.conv1.weight"][0][0][0][0] = std::nan("");
  const TempDir weights;
  auto spec = TinySpec();
  spec.mutable_hyper_parameters()->set_from_scratch(false);
  spec.set_pretrained(
      weights.Write("nan.safetensors", SerializeSafetensors(pretrained)));
  const auto result = Train(spec, [](const auto&) {});
  ASSERT_THAT(result, StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(std::string(result.status().message()),
              HasSubstr("layer1.0.conv1.weight holds NaN"));
}

TEST_F(FineTunerTest, FileThatVanishedSinceTheScanIsNamed) {
  const Dataset dataset = Scan();
  auto tuner = FineTuner::Create(TinySpec(), dataset);
  ASSERT_THAT(tuner, IsOk());
  fs::remove(dir_.path() / "train/a/2");
  const auto result = tuner->Run([](const auto&) {}, {});
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("train/a/2"));
}

TEST_F(FineTunerTest, WeightsOfAnotherModelAreRefused) {
  auto spec = TinySpec();
  spec.mutable_hyper_parameters()->set_from_scratch(false);
  spec.set_pretrained(fs::path(FINETUNE_TESTDATA) / "state_dict/small.pth");
  EXPECT_THAT(Train(spec, [](const auto&) {}),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// Two epochs with one seed reach about 0.92 on ants and bees; a broken recipe
// stays near 0.5.
TEST(RealPhotosTest, PretrainedWeightsAreFineTuned) {
  const char* weights = std::getenv("FINETUNE_WEIGHTS");
  const char* photos = std::getenv("FINETUNE_DATASET");
  if (weights == nullptr || photos == nullptr) {
    GTEST_SKIP() << "FINETUNE_WEIGHTS and FINETUNE_DATASET are not set";
  }
  auto spec = TinySpec();
  spec.set_max_image_pixels(64'000'000);
  spec.set_pretrained(weights);
  auto& p = *spec.mutable_hyper_parameters();
  p.set_from_scratch(false);
  p.set_batch_size(64);
  p.set_learning_rate(0.001);
  p.set_head_learning_rate(0.01);
  p.set_seed(1);
  const Dataset dataset = *ScanDataset(*OpenImageFolder(photos), {}, 2);
  auto tuner = FineTuner::Create(spec, dataset);
  ASSERT_THAT(tuner, IsOk());
  const auto result = tuner->Run([](const auto&) {}, {});
  ASSERT_THAT(result, IsOk());
  EXPECT_GT(result->test_accuracy, 0.85);
}

}  // namespace
}  // namespace finetune
