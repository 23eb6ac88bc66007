// The program itself: what only main() does.

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/training_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempDir;

class FakeTraining final : public v1::TrainingService::Service {
 public:
  grpc::Status ListFineTunes(grpc::ServerContext*,
                             const v1::ListFineTunesRequest*,
                             v1::ListFineTunesResponse* response) override {
    response->add_jobs()->set_job_id("ft-1");
    return grpc::Status::OK;
  }
};

class MainTest : public ::testing::Test {
 protected:
  MainTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&training_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
  }

  // Its exit code. What it says is in `out`, a file, and in Said().
  int Run(std::vector<std::string> arguments, const std::string& out) {
    arguments.insert(arguments.begin(),
                     {FINETUNE_CLIENT_BINARY, "--server", address_});
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const pid_t pid = fork();
    if (pid == 0) {
      dup2(open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
      dup2(open(err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
      execv(argv[0], argv.data());
      _exit(127);
    }
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

  std::string Said() const { return ReadFile(err_, 1 << 20).value_or("none"); }

  const TempDir dir_;
  const std::string err_ = dir_.path() / "err";
  FakeTraining training_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

TEST_F(MainTest, OutputThatCannotBeWrittenIsExitCodeOne) {
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{
           {"list"}, {"list", "--json"}, {"--help"}, {"--version"}}) {
    EXPECT_EQ(Run(command, "/dev/full"), 1) << command[0];
    EXPECT_THAT(Said(), HasSubstr("finetune: the output cannot be written"));
    EXPECT_EQ(Run(command, "/dev/null"), 0) << command[0];
    EXPECT_EQ(Said(), "");
  }
}

TEST_F(MainTest, WrongTlsFileIsOneLineAndExitCodeTwo) {
  const std::string file = dir_.Write("ca.pem", "not PEM");
  EXPECT_EQ(Run({"list", "--tls-ca", file}, "/dev/null"), 2);
  EXPECT_EQ(Said(), absl::StrCat("finetune: --tls-ca ", file,
                                 ": holds no certificate in PEM\n"));
}

TEST_F(MainTest, ArgumentInAUsageErrorCannotDrawOnTheTerminal) {
  EXPECT_EQ(Run({"list", "x\x1b[2J\ny"}, "/dev/null"), 2);
  EXPECT_THAT(Said(), HasSubstr("x\\x1b[2J\\ny\n"));
  EXPECT_THAT(Said(), HasSubstr("\nRun with --help"));
  EXPECT_THAT(Said(), Not(HasSubstr("\x1b")));
}

TEST_F(MainTest, DatasetThatGivesNoModelNameIsExitCodeTwo) {
  EXPECT_EQ(Run({"start", "\xe7\x8a\xac"}, "/dev/null"), 2);
  EXPECT_THAT(Said(), HasSubstr("--name"));
}

}  // namespace
}  // namespace finetune
