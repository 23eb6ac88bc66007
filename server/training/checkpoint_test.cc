#include "server/training/checkpoint.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/model/safetensors.h"
#include "server/testing/faulty_disk.h"
#include "server/training/param_groups.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::SizeIs;
using testing::StatusIs;
using testing::TempDir;

v1::HyperParameters Recipe() {
  v1::HyperParameters p;
  p.set_learning_rate(0.01);
  p.set_head_learning_rate(0.1);
  p.set_weight_decay(0.001);
  p.set_momentum(0.9);
  return p;
}

// A model and its optimizer, with momentum after one step.
struct Trained {
  explicit Trained(int64_t classes = 2)
      : net(classes), sgd(TwoGroupSgd(*net, Recipe())) {
    ToChannelsLast(*net);
  }
  void Step() {
    for (const torch::Tensor& p : net->parameters()) {
      p.mutable_grad() = torch::rand_like(p);
    }
    sgd.step();
  }
  std::string Bytes() const {
    return SerializeSafetensors(StateDictOf(*net)) +
           SerializeSafetensors(MomentumOf(*net, sgd));
  }

  ResNet18 net;
  torch::optim::SGD sgd;
};

// One epoch of two steps; the first one is the best.
trainer::CheckpointState At(int epochs, int64_t steps) {
  trainer::CheckpointState state;
  *state.mutable_hyper_parameters() = Recipe();
  state.set_dataset_digest("digest");
  v1::Progress& progress = *state.mutable_progress();
  progress.set_total_epochs(3);
  progress.set_total_steps(6);
  for (int i = 1; i <= epochs; ++i) progress.add_epochs()->set_epoch(i);
  progress.set_best_epoch(std::min(epochs, 1));
  state.set_epoch_steps(steps);
  return state;
}

class CheckpointsTest : public ::testing::Test {
 protected:
  CheckpointsTest() { torch::manual_seed(3); }

  Checkpoints Open() { return *Checkpoints::Open(dir_.path()); }

  // Steps of (0, 1), (1, 0), (1, 1): two stay. Returns the bytes of each.
  std::vector<std::string> WriteThree() {
    Checkpoints checkpoints = Open();
    std::vector<std::string> bytes;
    for (const auto& [epochs, steps] :
         std::vector<std::pair<int, int>>{{0, 1}, {1, 0}, {1, 1}}) {
      trained_.Step();
      if (epochs == 1 && steps == 0) best_ = StateDictOf(*trained_.net);
      EXPECT_THAT(checkpoints.Write(*trained_.net, trained_.sgd, best_,
                                    At(epochs, steps)),
                  IsOk());
      bytes.push_back(trained_.Bytes());
    }
    return bytes;
  }
  absl::StatusOr<Checkpoints::Restored> Restore(
      Trained& into, const std::string& digest = "digest") {
    Checkpoints checkpoints = Open();
    return checkpoints.Restore(Recipe(), digest, *into.net, into.sgd);
  }
  std::vector<std::string> Names() { return testing::NamesIn(dir_.path()); }
  void Damage(const std::string& name) {
    const fs::path file = dir_.path() / name;
    std::string bytes = *ReadFile(file, 1 << 30);
    bytes[bytes.size() / 2] ^= 1;
    ASSERT_THAT(WriteFileAtomically(file, bytes), IsOk());
  }

  const TempDir dir_;
  Trained trained_;
  StateDict best_;
};

constexpr char kOlder[] = "epochs-0001-steps-00000000";
constexpr char kNewer[] = "epochs-0001-steps-00000001";

TEST_F(CheckpointsTest, NewestComesBackBitForBit) {
  const auto bytes = WriteThree();
  Trained other;
  const auto restored = Restore(other);
  ASSERT_THAT(restored, IsOk());
  EXPECT_EQ(other.Bytes(), bytes[2]);
  EXPECT_EQ(restored->state.epoch_steps(), 1);
  EXPECT_EQ(SerializeSafetensors(restored->best), SerializeSafetensors(best_));
  for (const torch::Tensor& p : other.net->parameters()) {
    const auto& state = static_cast<const torch::optim::SGDParamState&>(
        *other.sgd.state().at(p.unsafeGetTensorImpl()));
    EXPECT_EQ(state.momentum_buffer().strides(), p.strides());
  }
}

TEST_F(CheckpointsTest, TwoStayAndTheWeightsAreAFileForPython) {
  WriteThree();
  EXPECT_THAT(Names(), ElementsAre(kOlder, kNewer));
  const auto weights =
      ReadStateDict(dir_.path() / kNewer / "weights.safetensors");
  ASSERT_THAT(weights, IsOk());
  EXPECT_TRUE(weights->contains("layer1.0.bn1.num_batches_tracked"));
  EXPECT_TRUE(fs::equivalent(dir_.path() / kOlder / "weights.safetensors",
                             dir_.path() / kNewer / "best.safetensors"));
}

TEST_F(CheckpointsTest, OneThatCannotBeReadForNowIsKept) {
  WriteThree();
  fs::rename(dir_.path() / kNewer / "weights.safetensors",
             dir_.path() / kNewer / "away");
  Trained other;
  EXPECT_THAT(Restore(other), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Names(), ElementsAre(kOlder, kNewer));
}

TEST_F(CheckpointsTest, DamagedOneIsPassedOverAndSetAside) {
  const auto bytes = WriteThree();
  const fs::path backup = dir_.path().native() + ".backup";
  const absl::Cleanup remove = [&] { fs::remove_all(backup); };
  fs::copy(dir_.path(), backup, fs::copy_options::recursive);
  for (const char* file : {"weights.safetensors", "optimizer.safetensors",
                           "best.safetensors", "state.pb", "state.sha256"}) {
    Damage(std::string(kNewer) + "/" + file);
    Trained other;
    EXPECT_THAT(Restore(other), IsOk()) << file;
    EXPECT_EQ(other.Bytes(), bytes[1]) << file;
    EXPECT_THAT(Names(), ElementsAre(kOlder, std::string(kNewer) + ".damaged"));
    fs::copy(
        backup, dir_.path(),
        fs::copy_options::recursive | fs::copy_options::overwrite_existing);
  }
}

TEST_F(CheckpointsTest, FilesOfAnotherShapeAreDamageEvenWithTheirHashes) {
  const auto bytes = WriteThree();
  Checkpoints checkpoints = Open();
  Trained three_classes(3);
  ASSERT_THAT(checkpoints.Write(*three_classes.net, three_classes.sgd,
                                StateDictOf(*three_classes.net), At(2, 0)),
              IsOk());
  Trained other;
  ASSERT_THAT(Restore(other), IsOk());
  EXPECT_EQ(other.Bytes(), bytes[2]);
}

TEST_F(CheckpointsTest, WhereNoneCanBeReadNothingIsRemoved) {
  WriteThree();
  for (const char* name : {kOlder, kNewer}) {
    Damage(std::string(name) + "/state.pb");
  }
  Trained other;
  const auto restored = Restore(other);
  ASSERT_THAT(restored, StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(std::string(restored.status().message()),
              AllOf(HasSubstr("none of the 2 checkpoints"),
                    HasSubstr("start a new job")));
  EXPECT_THAT(Names(), SizeIs(2));
}

TEST_F(CheckpointsTest, OversizedFileIsNotRead) {
  WriteThree();
  fs::resize_file(dir_.path() / kNewer / "optimizer.safetensors",
                  uint64_t{1} << 33);  // Sparse.
  Trained other;
  const auto restored = Restore(other);
  ASSERT_THAT(restored, IsOk());
  EXPECT_EQ(restored->state.epoch_steps(), 0);
}

TEST_F(CheckpointsTest, ChangedDataSetOrRecipeIsRefused) {
  WriteThree();
  Trained other;
  const auto data = Restore(other, "another digest");
  EXPECT_THAT(data, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(std::string(data.status().message()),
              HasSubstr("the data set changed since this job was interrupted "
                        "at epoch 2, step 1 of 2"));
  Checkpoints checkpoints = Open();
  v1::HyperParameters recipe = Recipe();
  recipe.set_learning_rate(0.02);
  const auto changed =
      checkpoints.Restore(recipe, "digest", *other.net, other.sgd);
  EXPECT_THAT(changed, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Names(), SizeIs(2));
}

TEST_F(CheckpointsTest, LeftoversOfAKilledProcessAreRemoved) {
  WriteThree();
  dir_.Write("epochs-0001-steps-00000002.tmp/weights.safetensors", "half");
  EXPECT_FALSE(Open().empty());
  EXPECT_THAT(Names(), ElementsAre(kOlder, kNewer));
}

TEST_F(CheckpointsTest, PositionThatIsWrittenAlreadyIsLeftAlone) {
  WriteThree();
  Trained other;
  Checkpoints checkpoints = Open();
  const fs::path file = dir_.path() / kNewer / "state.pb";
  const auto before = fs::last_write_time(file);
  ASSERT_THAT(checkpoints.Restore(Recipe(), "digest", *other.net, other.sgd),
              IsOk());
  EXPECT_THAT(checkpoints.Write(*other.net, other.sgd, best_, At(1, 1)),
              IsOk());
  EXPECT_EQ(fs::last_write_time(file), before);
}

// A limit of the file size stands for a full disk.
TEST_F(CheckpointsTest, FailedWriteNamesThePathAndTouchesNothing) {
  const auto bytes = WriteThree();
  rlimit limit;
  getrlimit(RLIMIT_FSIZE, &limit);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);
  const absl::Cleanup restore = [=] {
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, old_handler);
  };
  rlimit small = limit;
  small.rlim_cur = 1 << 20;
  setrlimit(RLIMIT_FSIZE, &small);

  Checkpoints checkpoints = Open();
  const absl::Status written =
      checkpoints.Write(*trained_.net, trained_.sgd, best_, At(2, 0));
  EXPECT_THAT(written, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(std::string(written.message()),
              AllOf(HasSubstr("cannot write a checkpoint: write " +
                              dir_.path().native()),
                    HasSubstr("File too large")));
  EXPECT_THAT(Names(), ElementsAre(kOlder, kNewer));
  Trained other;
  ASSERT_THAT(Restore(other), IsOk());
  EXPECT_EQ(other.Bytes(), bytes[2]);
}

TEST_F(CheckpointsTest, DiskThatFailsAtAnyWriteLeavesAWholeCheckpoint) {
  ASSERT_THAT(Open().Write(*trained_.net, trained_.sgd, {}, At(0, 1)), IsOk());
  const std::string before = trained_.Bytes();
  {
    const torch::NoGradGuard no_grad;
    trained_.net->fc->bias.add_(1);
  }
  const std::string after = trained_.Bytes();
  for (const int error : {ENOSPC, EIO}) {
    for (int successes = 0;; ++successes) {
      Checkpoints checkpoints = Open();
      testing::BreakDisk(dir_.path(), successes, error);
      const absl::Status written =
          checkpoints.Write(*trained_.net, trained_.sgd, {}, At(0, 2));
      if (!testing::RepairDisk()) break;  // That was the last write.
      for (const std::string& name : Names()) {
        EXPECT_FALSE(name.ends_with(".tmp")) << name;
      }
      Trained again;
      ASSERT_THAT(Restore(again), IsOk()) << successes;
      const std::string restored = again.Bytes();
      if (written.ok()) {
        EXPECT_TRUE(restored == after) << successes;
      } else {
        EXPECT_THAT(written, StatusIs(absl::StatusCode::kResourceExhausted));
        EXPECT_TRUE(restored == before || restored == after) << successes;
      }
    }
    fs::remove_all(dir_.path() / Names().back());
  }
}

}  // namespace
}  // namespace finetune
