// A training that is interrupted anywhere, any number of times, ends with the
// same bits as one that is not.

#include <climits>
#include <exception>
#include <filesystem>
#include <map>
#include <stop_token>
#include <string>
#include <tuple>
#include <utility>

#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/safetensors.h"
#include "server/training/fine_tuner.h"
#include "server/training/testing/tiny_job.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

enum class Ending { kStopped, kKilled };

struct Killed : std::exception {};  // Unwinds: no checkpoint is written.

// Three epochs of two steps (2 and 1 images) and tests of two batches: five
// reports each, with that of the epoch's end.
class ResumeTest : public ::testing::TestWithParam<std::tuple<double, Ending>> {
 protected:
  // By epochs completed and steps taken.
  using Losses = std::map<std::pair<int, int64_t>, double>;

  struct Outcome {
    std::string best;
    std::string weights, momentum;  // Of the last checkpoint.
    std::string progress;           // But for the times.
    Losses losses;                  // As reported.
  };

  ResumeTest() {
    WriteTinyDataset(data_, /*train=*/1, /*test=*/2);
    data_.Write("train/a/2", testing::Image("small_420.jpg"));
    dataset_ = ScanTiny(data_);
  }

  trainer::TrainerSpec Spec(const fs::path& checkpoints, double momentum) {
    trainer::TrainerSpec spec = testing::TinySpec();
    spec.set_checkpoint_dir(checkpoints);
    spec.mutable_hyper_parameters()->set_momentum(momentum);
    spec.mutable_hyper_parameters()->set_batch_size(2);
    spec.mutable_hyper_parameters()->set_epochs(3);
    return spec;
  }

  // Trains until the end, or until `reports` have been made. Time flies, so
  // that every step is reported.
  absl::StatusOr<FineTuner::Result> Train(const trainer::TrainerSpec& spec,
                                          int reports, Ending ending) {
    absl::Time now = absl::UnixEpoch();
    auto tuner = FineTuner::Create(spec, dataset_,
                                   [&now] { return now += absl::Seconds(1); });
    if (!tuner.ok()) return tuner.status();
    resumed_ = tuner->resumed();
    std::stop_source stop;
    int reported = 0;
    return tuner->Run(
        [&](const v1::Progress& progress) {
          last_ = progress;
          const auto [it, is_new] = losses_.try_emplace(
              {progress.epochs_size(), progress.step()}, progress.train_loss());
          EXPECT_EQ(it->second, progress.train_loss());
          if (++reported != reports) return;
          if (ending == Ending::kKilled) throw Killed();
          stop.request_stop();
        },
        stop.get_token());
  }

  Outcome OutcomeOf(const FineTuner::Result& result, const fs::path& folder) {
    Outcome outcome;
    outcome.best = SerializeSafetensors(result.best);
    const fs::path last = folder / "epochs-0003-steps-00000000";
    outcome.weights = *ReadFile(last / "weights.safetensors", 1 << 30);
    outcome.momentum =
        ReadFile(last / "optimizer.safetensors", 1 << 30).value_or("none");
    last_.clear_eta();
    last_.clear_images_per_second();
    last_.clear_data_wait_fraction();
    for (v1::EpochMetrics& epoch : *last_.mutable_epochs()) {
      epoch.clear_duration();
      epoch.clear_images_per_second();
    }
    outcome.progress = last_.DebugString();
    outcome.losses = losses_;
    losses_.clear();
    return outcome;
  }

  Outcome Undisturbed(double momentum) {
    const TempDir dir;
    const auto result =
        Train(Spec(dir.path(), momentum), INT_MAX, Ending::kStopped);
    EXPECT_THAT(result, IsOk());
    return OutcomeOf(*result, dir.path());
  }

  const TempDir data_, checkpoints_;
  Dataset dataset_;
  v1::Progress last_;
  Losses losses_;
  std::string resumed_;
};

void ExpectEqual(const auto& a, const auto& b) {
  EXPECT_TRUE(a.best == b.best);
  EXPECT_TRUE(a.weights == b.weights);
  EXPECT_TRUE(a.momentum == b.momentum);
  EXPECT_EQ(a.progress, b.progress);
  EXPECT_EQ(a.losses, b.losses);
}

TEST_P(ResumeTest, InterruptedAfterEveryStepItEndsWithTheSameBits) {
  const auto [momentum, ending] = GetParam();
  const Outcome expected = Undisturbed(momentum);
  EXPECT_EQ(expected.losses.size(), 3u * 3);  // Two steps and the end.

  auto spec = Spec(checkpoints_.path(), momentum);
  if (ending == Ending::kKilled) {
    spec.mutable_checkpoint_interval()->set_nanos(1);  // At every step.
  }
  absl::StatusOr<FineTuner::Result> result = absl::CancelledError();
  int interruptions = 0;
  std::string before = "not yet";
  int reports = 1;
  while (absl::IsCancelled(result.status())) {
    ASSERT_LT(++interruptions, 100);
    try {
      result = Train(spec, reports, ending);
    } catch (const Killed&) {
    }
    // The first report is of where the last one stopped. Then one more report
    // each time, until a process gets further than the one before.
    reports = resumed_ == before ? reports + 1 : 2;
    before = resumed_;
  }
  ASSERT_THAT(result, IsOk());
  EXPECT_GE(interruptions, 9);
  ExpectEqual(OutcomeOf(*result, checkpoints_.path()), expected);
}

INSTANTIATE_TEST_SUITE_P(
    All, ResumeTest,
    ::testing::Combine(::testing::Values(0, 0.9),
                       ::testing::Values(Ending::kStopped, Ending::kKilled)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param) > 0 ? "Momentum" : "Plain") +
             (std::get<1>(info.param) == Ending::kKilled ? "Killed"
                                                         : "Stopped");
    });

TEST_F(ResumeTest, WithDamagedNewestCheckpointItEndsWithTheSameBits) {
  const Outcome expected = Undisturbed(0.9);
  auto spec = Spec(checkpoints_.path(), 0.9);
  ASSERT_THAT(Train(spec, 6, Ending::kStopped),  // Report 5 ends epoch 1.
              StatusIs(absl::StatusCode::kCancelled));
  fs::resize_file(
      checkpoints_.path() / "epochs-0001-steps-00000001/weights.safetensors",
      1000);
  const auto result = Train(spec, INT_MAX, Ending::kStopped);
  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(resumed_,
            "epoch 2, step 0 of 2 (damaged, and set aside: "
            "epochs-0001-steps-00000001.damaged)");
  ExpectEqual(OutcomeOf(*result, checkpoints_.path()), expected);
}

TEST_F(ResumeTest, WhereAllEpochsAreDoneTheResultComesFromTheCheckpoint) {
  const auto spec = Spec(checkpoints_.path(), 0);
  const auto once = Train(spec, INT_MAX, Ending::kStopped);
  ASSERT_THAT(once, IsOk());
  const std::string progress = last_.DebugString();
  fs::remove_all(data_.path());  // Nothing is to be read again.
  const auto again = Train(spec, INT_MAX, Ending::kStopped);
  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(resumed_, "the end of the last epoch");
  EXPECT_EQ(SerializeSafetensors(again->best),
            SerializeSafetensors(once->best));
  EXPECT_EQ(again->test_accuracy, once->test_accuracy);
  EXPECT_EQ(last_.epochs_size(), 3);
}

TEST_F(ResumeTest, WithoutAnIntervalOnlyEpochsAreCheckpoints) {
  const auto spec = Spec(checkpoints_.path(), 0);
  EXPECT_THROW(Train(spec, 4, Ending::kKilled).status().IgnoreError(), Killed);
  EXPECT_TRUE(fs::is_empty(checkpoints_.path()));
  EXPECT_THROW(Train(spec, 8, Ending::kKilled).status().IgnoreError(), Killed);
  EXPECT_EQ(resumed_, "");
  EXPECT_THROW(Train(spec, 1, Ending::kKilled).status().IgnoreError(), Killed);
  EXPECT_EQ(resumed_, "epoch 2, step 0 of 2");
}

TEST_F(ResumeTest, StopBeforeTheFirstStepLeavesNoCheckpoint) {
  std::stop_source stop;
  stop.request_stop();
  auto tuner = FineTuner::Create(Spec(checkpoints_.path(), 0), dataset_);
  ASSERT_THAT(tuner, IsOk());
  EXPECT_THAT(tuner->Run([](const auto&) {}, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled));
  EXPECT_TRUE(fs::is_empty(checkpoints_.path()));
}

TEST_F(ResumeTest, ProgressGoesOnFromWhereItWas) {
  const auto spec = Spec(checkpoints_.path(), 0);
  ASSERT_THAT(Train(spec, 8, Ending::kStopped),
              StatusIs(absl::StatusCode::kCancelled));
  const v1::Progress before = last_;
  EXPECT_THROW(Train(spec, 1, Ending::kKilled).status().IgnoreError(), Killed);
  EXPECT_EQ(last_.step(), before.step());
  EXPECT_EQ(last_.epoch(), before.epoch());
  EXPECT_EQ(last_.fraction_done(), before.fraction_done());
  EXPECT_GT(last_.eta().seconds(), 0);
}

// The changed file is found by the scan that every process begins with.
TEST_F(ResumeTest, ChangedDataSetIsRefused) {
  const auto spec = Spec(checkpoints_.path(), 0);
  ASSERT_THAT(Train(spec, 1, Ending::kStopped),
              StatusIs(absl::StatusCode::kCancelled));
  data_.Write("train/a/1", testing::Image("grey.jpg"));
  dataset_ = ScanTiny(data_);
  EXPECT_THAT(Train(spec, 1, Ending::kStopped),
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace finetune
