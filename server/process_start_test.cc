#include "server/process_start.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "common/testing/temp_dir.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using testing::TempDir;

// Whether `holds` does in a process of its own.
bool InAChild(const std::function<bool()>& holds) {
  const pid_t child = fork();
  if (child == 0) _exit(holds() ? 0 : 1);
  int status = 0;
  return waitpid(child, &status, 0) == child && WIFEXITED(status) &&
         WEXITSTATUS(status) == 0;
}

bool IsDevNull(int fd) {
  struct stat null, opened;
  return stat("/dev/null", &null) == 0 && fstat(fd, &opened) == 0 &&
         S_ISCHR(opened.st_mode) && opened.st_rdev == null.st_rdev;
}

TEST(OpenStandardStreamsTest, FilesThatFollowAreNoStandardStreams) {
  EXPECT_TRUE(InAChild([] {
    close(STDIN_FILENO);
    close(STDERR_FILENO);
    OpenStandardStreams();
    return IsDevNull(STDIN_FILENO) && IsDevNull(STDERR_FILENO) &&
           open("/", O_RDONLY) > STDERR_FILENO;
  }));
}

TEST(OpenStandardStreamsTest, StreamsThatAreOpenStay) {
  const TempDir dir;
  const std::string file = dir.Write("out", "");
  EXPECT_TRUE(InAChild([&file] {
    dup2(open(file.c_str(), O_WRONLY), STDOUT_FILENO);
    OpenStandardStreams();
    return write(STDOUT_FILENO, "kept", 4) == 4;
  }));
  EXPECT_EQ(std::filesystem::file_size(file), 4u);
}

TEST(MakeNewFilesPrivateTest, OtherUsersReadNothing) {
  const TempDir dir;
  const std::string folder = dir.path() / "folder", file = dir.path() / "file";
  EXPECT_TRUE(InAChild([&] {
    MakeNewFilesPrivate();
    struct stat of_folder, of_file;
    return mkdir(folder.c_str(), 0777) == 0 &&
           open(file.c_str(), O_WRONLY | O_CREAT, 0666) >= 0 &&
           stat(folder.c_str(), &of_folder) == 0 &&
           stat(file.c_str(), &of_file) == 0 &&
           (of_folder.st_mode & 0777) == 0700 &&
           (of_file.st_mode & 0777) == 0600;
  }));
}

TEST(RaiseFileLimitTest, SoftLimitBecomesTheHardOne) {
  EXPECT_TRUE(InAChild([] {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 64;
    setrlimit(RLIMIT_NOFILE, &limit);
    RaiseFileLimit();
    getrlimit(RLIMIT_NOFILE, &limit);
    return limit.rlim_cur == limit.rlim_max && limit.rlim_cur > 64;
  }));
}

TEST(BlockEndingSignalsTest, HangUpIsWaitedForAsTheOthersAre) {
  for (const int number : {SIGTERM, SIGINT, SIGHUP}) {
    EXPECT_TRUE(InAChild([number] {
      signal(SIGHUP, SIG_DFL);
      const sigset_t signals = BlockEndingSignals();
      raise(number);
      int came = 0;
      return sigwait(&signals, &came) == 0 && came == number;
    })) << number;
  }
}

TEST(BlockEndingSignalsTest, HangUpThatNohupIgnoresStaysIgnored) {
  EXPECT_TRUE(InAChild([] {
    signal(SIGHUP, SIG_IGN);
    const sigset_t signals = BlockEndingSignals();
    raise(SIGHUP);
    sigset_t waiting;
    sigpending(&waiting);
    return sigismember(&signals, SIGHUP) == 0 &&
           sigismember(&waiting, SIGHUP) == 0;
  }));
}

}  // namespace
}  // namespace finetune
