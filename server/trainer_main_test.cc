// The real trainer as a process: what it says, what it leaves behind, and what
// becomes of it when it is stopped, killed or left alone.

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/trainer/trainer.pb.h"
#include "gmock/gmock.h"
#include "google/protobuf/io/zero_copy_stream_impl.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "gtest/gtest.h"
#include "server/training/testing/tiny_job.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::IsOk;
using testing::TempDir;
using trainer::TrainerEvent;

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() { WriteTinyDataset(data_, /*train=*/2, /*test=*/1); }

  trainer::TrainerSpec Spec(const fs::path& job) {
    trainer::TrainerSpec spec = testing::TinySpec();
    spec.set_dataset_dir(data_.path());
    spec.set_model_dir(job / "model");
    spec.set_checkpoint_dir(job / "checkpoints");
    spec.mutable_checkpoint_interval()->set_nanos(1);
    spec.mutable_hyper_parameters()->set_epochs(3);
    spec.mutable_hyper_parameters()->set_momentum(0.9);
    spec.mutable_hyper_parameters()->set_batch_size(1);
    return spec;
  }

  // Starts the trainer in `job`, with its standard error in job/log.
  void Start(const fs::path& job, const trainer::TrainerSpec& spec) {
    ASSERT_THAT(WriteFileAtomically(job / "spec", spec.SerializeAsString()),
                IsOk());
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    const std::string log = job / "log";
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0644);
    std::string binary = FINETUNE_TRAINER, flag = "--spec", file = job / "spec";
    char* argv[] = {binary.data(), flag.data(), file.data(), nullptr};
    ASSERT_EQ(
        posix_spawn(&pid_, binary.c_str(), &actions, nullptr, argv, environ),
        0);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    events_fd_ = ends[0];
  }

  // Reads events until `until` says that this is enough, or the last one.
  // Closes the pipe and returns them.
  std::vector<TrainerEvent> Read(
      const std::function<bool(const TrainerEvent&)>& until) {
    google::protobuf::io::FileInputStream stream(events_fd_);
    stream.SetCloseOnDelete(true);
    std::vector<TrainerEvent> events(1);
    while (google::protobuf::util::ParseDelimitedFromZeroCopyStream(
        &events.back(), &stream, nullptr)) {
      if (until(events.back())) return events;
      events.emplace_back();
    }
    events.pop_back();
    return events;
  }
  std::vector<TrainerEvent> ReadAll() {
    return Read([](const auto&) { return false; });
  }
  int Reap() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    return status;
  }
  // Runs to its end, which is to be a good one; returns the weights.
  std::string Train(const fs::path& job, std::string* resumed = nullptr) {
    Start(job, Spec(job));
    const auto events = ReadAll();
    EXPECT_EQ(Reap(), 0);
    EXPECT_TRUE(events.back().done());
    for (const TrainerEvent& event : events) {
      if (resumed != nullptr && event.has_resumed()) *resumed = event.resumed();
    }
    return *ReadFile(job / "model/weights.safetensors", 1 << 30);
  }

  static bool IsFourthStep(const TrainerEvent& event) {
    return event.progress().step() >= 4;
  }

  const TempDir data_, job_;
  pid_t pid_ = 0;
  int events_fd_ = -1;
};

TEST_F(TrainerTest, ValidationScansAndLeavesNothing) {
  auto spec = Spec(job_.path());
  spec.set_validate_only(true);
  Start(job_.path(), spec);
  const auto events = ReadAll();
  EXPECT_EQ(Reap(), 0);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[0].dataset_stats().train_images(), 4);
  EXPECT_TRUE(events[1].done());
  EXPECT_FALSE(fs::exists(job_.path() / "checkpoints"));
  EXPECT_FALSE(fs::exists(job_.path() / "model"));
}

TEST_F(TrainerTest, KilledThenStoppedItEndsWithTheModelOfAnUndisturbedOne) {
  const TempDir undisturbed;
  const std::string expected = Train(undisturbed.path());
  const fs::path job = job_.path();

  Start(job, Spec(job));
  Read([this](const TrainerEvent& event) {
    if (event.progress().step() >= 2) kill(pid_, SIGKILL);
    return false;
  });
  EXPECT_TRUE(WIFSIGNALED(Reap()));
  // What it might have left behind.
  job_.Write("model/weights.safetensors.tmp", "half");
  job_.Write("checkpoints/epochs-0002-steps-00000001.tmp/state.pb", "half");

  Start(job, Spec(job));
  const auto events = Read([this](const TrainerEvent& event) {
    if (IsFourthStep(event)) kill(pid_, SIGTERM);
    return false;
  });
  EXPECT_EQ(WEXITSTATUS(Reap()), 1);
  EXPECT_EQ(events.back().error().code(),
            static_cast<int>(absl::StatusCode::kCancelled));

  std::string resumed;
  EXPECT_TRUE(Train(job, &resumed) == expected);
  EXPECT_NE(resumed, "");
  std::vector<std::string> model;
  for (const auto& entry : fs::directory_iterator(job / "model")) {
    model.push_back(entry.path().filename());
  }
  EXPECT_THAT(model, ::testing::UnorderedElementsAre("model.json",
                                                     "weights.safetensors"));
}

TEST_F(TrainerTest, ItEndsWhenNobodyReadsItsEvents) {
  auto spec = Spec(job_.path());
  spec.mutable_hyper_parameters()->set_epochs(1000);
  Start(job_.path(), spec);
  Read([](const auto& event) { return event.has_progress(); });
  EXPECT_EQ(WEXITSTATUS(Reap()), 1);
}

TEST_F(TrainerTest, ItEndsAtOnceWhereTheServerIsGoneAlready) {
  signal(SIGPIPE, SIG_IGN);
  ASSERT_NO_FATAL_FAILURE(Start(job_.path(), Spec(job_.path())));
  close(events_fd_);
  EXPECT_EQ(WEXITSTATUS(Reap()), 1);
}

TEST_F(TrainerTest, OneTrainerAtATimeWorksInAFolder) {
  auto spec = Spec(job_.path());
  spec.mutable_hyper_parameters()->set_epochs(1000);
  Start(job_.path(), spec);
  const int folder = open(job_.path().c_str(), O_RDONLY | O_DIRECTORY);
  Read([&](const auto& event) {
    if (!event.has_dataset_stats()) return false;
    EXPECT_EQ(flock(folder, LOCK_EX | LOCK_NB), -1);
    EXPECT_EQ(errno, EWOULDBLOCK);
    return true;
  });
  kill(pid_, SIGKILL);
  Reap();
  EXPECT_EQ(flock(folder, LOCK_EX | LOCK_NB), 0);
  close(folder);
}

}  // namespace
}  // namespace finetune
