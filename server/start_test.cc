// How the server's process starts, and why it does not.

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/state_folder.h"
#include "server/testing/server_process.h"

namespace finetune {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::Not;
using testing::ServerProcess;
using testing::TempDir;

using Strings = std::vector<std::string>;

class StartTest : public ::testing::Test {
 protected:
  // Starts the server with `flags` beside the usual ones, by a shell that first
  // does what `before` says and adds `redirection`.
  void Start(const Strings& flags, const std::string& before = ":",
             const std::string& redirection = "",
             const Strings& environment = {}) {
    Strings command = {"/bin/sh",
                       "-c",
                       before + "; exec \"$0\" \"$@\" " + redirection,
                       FINETUNE_SERVER_BINARY,
                       "--data_root",
                       dir_.path(),
                       "--device",
                       "cpu"};
    command.insert(command.end(), flags.begin(), flags.end());
    server_ = std::make_unique<ServerProcess>(command, environment, log_);
  }

  // Flags that it serves with, and `more`.
  Strings Good(const Strings& more = {}) const {
    Strings flags = {"--address", "127.0.0.1:0", "--state_dir", state_};
    flags.insert(flags.end(), more.begin(), more.end());
    return flags;
  }

  std::string Log() const { return *ReadFile(log_, 1 << 20); }

  // One line, as the exit code says: 2 for settings.
  void ExpectRefused(int exit_code, const std::string& text) {
    EXPECT_EQ(server_->address(), "");
    EXPECT_EQ(server_->Wait(), exit_code);
    const std::string log = Log();
    EXPECT_THAT(log, HasSubstr(text));
    EXPECT_EQ(std::count(log.begin(), log.end(), '\n'), 1) << log;
    fs::remove(log_);
  }

  const TempDir dir_;
  const std::string log_ = dir_.path() / "server.log";
  const std::string state_ = dir_.path() / "state";
  std::unique_ptr<ServerProcess> server_;
};

TEST_F(StartTest, FileOfSettingsThatIsNotUnderstoodEndsIt) {
  const std::string file = dir_.Write("settings", "tokn_file = /etc/tokens");
  Start(Good({"--config", file}));
  ExpectRefused(2, file +
                       ", line 1: there is no setting tokn_file; did you "
                       "mean token_file?");
  dir_.Write("settings", "[server]");
  Start(Good({"--config", file}));
  ExpectRefused(2, "`name = value`");
}

TEST_F(StartTest, WrongAddressesAndAnEmptyStateFolderEndIt) {
  for (const char* address : {"127.0.0.1:99999", "127.0.0.1", ":http"}) {
    Start({"--state_dir", state_, "--address", address});
    ExpectRefused(2, "--address");
  }
  Start(Good({"--metrics_address", "127.0.0.1:99999"}));
  ExpectRefused(2, "--metrics_address");
  Start({"--address", "127.0.0.1:0", "--state_dir", ""});
  ExpectRefused(2, "--state_dir");
}

TEST_F(StartTest, DashesAndUnderscoresAreOneInFlags) {
  Start({"--address=127.0.0.1:0", "--state-dir", state_, "--drain-timeout=5"});
  ASSERT_NE(server_->channel(), nullptr) << Log();
  EXPECT_TRUE(fs::exists(fs::path(state_) / "finetuned.db"));
}

TEST_F(StartTest, VariableThatIsNoSettingIsWarnedAbout) {
  Start(Good(), ":", "", {"FINETUNED_TOKN_FILE=/etc/tokens"});
  ASSERT_NE(server_->channel(), nullptr) << Log();
  EXPECT_EQ(server_->Terminate(), 0);
  EXPECT_THAT(Log(), AllOf(HasSubstr("FINETUNED_TOKN_FILE"),
                           HasSubstr("did you mean FINETUNED_TOKEN_FILE?")));
}

TEST_F(StartTest, AddressThatIsTakenLeavesJobsAlone) {
  {
    const auto state = StateFolder::Open(state_);
    ASSERT_THAT(state, IsOk());
    v1::FineTuneJob job;
    job.set_job_id("running");
    job.set_state(v1::JOB_STATE_RUNNING);
    ASSERT_THAT((*state)->jobs().Add(job, {}), IsOk());
  }
  Start({"--address", "127.0.0.1:0", "--state_dir", dir_.path() / "other"});
  ASSERT_NE(server_->channel(), nullptr) << Log();
  const std::unique_ptr<ServerProcess> first = std::move(server_);
  fs::remove(log_);
  Start({"--address", first->address(), "--state_dir", state_});
  ExpectRefused(
      1, "cannot listen on " + first->address() + ": Address already in use");
  Start(Good({"--metrics_address", first->address()}));
  ExpectRefused(1, "Address already in use");
  const auto state = StateFolder::Open(state_);
  ASSERT_THAT(state, IsOk());
  const auto job = (*state)->jobs().Get("running");
  ASSERT_THAT(job, IsOk());
  EXPECT_EQ(job->events_size(), 0);
}

TEST_F(StartTest, OtherUsersReadNothingOfTheState) {
  Start(Good(), "umask 022; mkdir " + state_);
  ASSERT_NE(server_->channel(), nullptr) << Log();
  for (const auto& entry : fs::recursive_directory_iterator(state_)) {
    struct stat info;
    ASSERT_EQ(stat(entry.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 077, 0u) << entry.path();
  }
  struct stat folder;
  ASSERT_EQ(stat(state_.c_str(), &folder), 0);
  EXPECT_EQ(folder.st_mode & 0777, 0700u);
}

TEST_F(StartTest, ClosedStandardErrorDoesNotPutTheLogIntoTheState) {
  Start(Good(), ":", "<&- 2>&-");
  ASSERT_NE(server_->channel(), nullptr);
  EXPECT_EQ(server_->Terminate(), 0);
  EXPECT_EQ(fs::file_size(fs::path(state_) / "lock"), 0u);
}

TEST_F(StartTest, HangUpDrainsIt) {
  signal(SIGHUP, SIG_DFL);  // Where nohup runs this test.
  Start(Good());
  ASSERT_NE(server_->channel(), nullptr) << Log();
  kill(server_->pid(), SIGHUP);
  EXPECT_EQ(server_->Wait(), 0);
}

TEST_F(StartTest, HangUpThatNohupIgnoresDoesNot) {
  Start(Good(), "trap '' HUP");
  ASSERT_NE(server_->channel(), nullptr) << Log();
  kill(server_->pid(), SIGHUP);
  EXPECT_TRUE(server_->IsRunning());
  EXPECT_EQ(server_->Terminate(), 0);
}

TEST_F(StartTest, TakesAllTheFilesThatItMayOpen) {
  Start(Good(), "ulimit -S -n 128");
  ASSERT_NE(server_->channel(), nullptr) << Log();
  rlimit limit{};
  ASSERT_EQ(prlimit(server_->pid(), RLIMIT_NOFILE, nullptr, &limit), 0);
  EXPECT_EQ(limit.rlim_cur, limit.rlim_max);
  EXPECT_GT(limit.rlim_cur, 128u);
}

}  // namespace
}  // namespace finetune
