#include "server/jobs/trainer_process.h"

#include <sys/resource.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "common/file.h"
#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;
using testing::TempDir;

// Shell scripts stand in for the trainer.
class TrainerProcessTest : public ::testing::Test {
 protected:
  std::filesystem::path Script(const std::string& body) {
    const auto path = dir_.Write("trainer.sh", "#!/bin/sh\n" + body);
    std::filesystem::permissions(path, std::filesystem::perms::owner_all);
    return path;
  }

  // A file with these events, as a trainer would write them.
  std::string Events(const std::vector<trainer::TrainerEvent>& events) {
    std::ostringstream out;
    for (const auto& event : events) {
      google::protobuf::util::SerializeDelimitedToOstream(event, &out);
    }
    return dir_.Write("events", out.str());
  }

  absl::Status Run(const std::string& body, std::stop_token stop = {}) {
    return RunTrainer(
        Script(body), dir_.path(), trainer::TrainerSpec(),
        [this](const trainer::TrainerEvent& event) { heard_.push_back(event); },
        stop);
  }

  const TempDir dir_;
  std::vector<trainer::TrainerEvent> heard_;
};

trainer::TrainerEvent Done() {
  trainer::TrainerEvent event;
  event.set_done(true);
  return event;
}

TEST_F(TrainerProcessTest, EventsArePassedOnAndDoneIsOk) {
  trainer::TrainerEvent progress;
  progress.mutable_progress()->set_epoch(2);
  EXPECT_THAT(Run("cat " + Events({progress, Done()})), IsOk());
  ASSERT_EQ(heard_.size(), 1u);
  EXPECT_EQ(heard_[0].progress().epoch(), 2);
}

TEST_F(TrainerProcessTest, SpecIsHandedOver) {
  trainer::TrainerSpec spec;
  spec.set_dataset_dir("/photos");
  const auto script =
      Script("test \"$1\" = --spec && cp \"$2\" " +
             (dir_.path() / "seen").string() + "; cat " + Events({Done()}));
  ASSERT_THAT(RunTrainer(script, dir_.path(), spec, [](const auto&) {}, {}),
              IsOk());
  trainer::TrainerSpec seen;
  ASSERT_TRUE(seen.ParseFromString(*ReadFile(dir_.path() / "seen", 1000)));
  EXPECT_EQ(seen.dataset_dir(), "/photos");
}

TEST_F(TrainerProcessTest, ReportedErrorIsReturnedWithItsDetails) {
  trainer::TrainerEvent failed;
  const absl::Status error = PreconditionError("DATASET", "x", "one class");
  *failed.mutable_error() = ToRpcStatus(error);
  EXPECT_EQ(Run("cat " + Events({failed}) + "; exit 1"), error);
}

TEST_F(TrainerProcessTest, EndBySomebodyElsesSigtermIsADeath) {
  trainer::TrainerEvent stopped;
  *stopped.mutable_error() = ToRpcStatus(absl::CancelledError("stopped"));
  EXPECT_THAT(Run("cat " + Events({stopped}) + "; exit 1"),
              StatusIs(absl::StatusCode::kAborted));
}

TEST_F(TrainerProcessTest, DeathIsReportedWithItsCauseAndTheLog) {
  const absl::Status killed = Run("echo oops >&2; kill -9 $$");
  EXPECT_THAT(killed, StatusIs(absl::StatusCode::kAborted));
  EXPECT_THAT(std::string(killed.message()), HasSubstr("signal 9"));
  EXPECT_THAT(std::string(killed.message()), HasSubstr("trainer.log"));
  EXPECT_EQ(*ReadFile(dir_.path() / "trainer.log", 100), "oops\n");

  EXPECT_THAT(std::string(Run("exit 7").message()), HasSubstr("code 7"));
}

TEST_F(TrainerProcessTest, DoneFollowedByACrashIsNoSuccess) {
  EXPECT_THAT(Run("cat " + Events({Done()}) + "; kill -11 $$"),
              StatusIs(absl::StatusCode::kAborted));
}

TEST_F(TrainerProcessTest, EndWithoutAWordIsNoSuccess) {
  EXPECT_THAT(Run("exit 0"), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(TrainerProcessTest, StopRequestTerminatesTheTrainer) {
  std::stop_source stop;
  trainer::TrainerEvent progress;
  progress.mutable_progress()->set_epoch(1);
  const auto script =
      Script("cat " + Events({progress}) + "; exec tail -f /dev/null");
  const absl::Status status = RunTrainer(
      script, dir_.path(), trainer::TrainerSpec(),
      [&](const trainer::TrainerEvent&) { stop.request_stop(); },
      stop.get_token());
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(TrainerProcessTest, WithoutDescriptorsItCannotBeStartedForNow) {
  const auto script = Script("cat " + Events({Done()}));
  const auto run = [&] {
    return RunTrainer(script, dir_.path(), trainer::TrainerSpec(),
                      [](const auto&) {}, {});
  };
  EXPECT_THAT(run(), IsOk());  // UBSan's first look at a type needs some, too.
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none = {.rlim_cur = 3, .rlim_max = limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const absl::Status starved = run();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_THAT(starved, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(run(), IsOk());
}

TEST_F(TrainerProcessTest, MissingBinaryIsAnError) {
  EXPECT_FALSE(RunTrainer(dir_.path() / "none", dir_.path(),
                          trainer::TrainerSpec(), [](const auto&) {}, {})
                   .ok());
}

}  // namespace
}  // namespace finetune
