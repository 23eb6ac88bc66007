#include "server/jobs/trainer_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/file.h"
#include "common/mutex.h"
#include "common/rpc_status.h"
#include "common/status_macros.h"
#include "google/protobuf/io/zero_copy_stream_impl.h"
#include "google/protobuf/util/delimited_message_util.h"

namespace finetune {
namespace {

constexpr uintmax_t kMaxLogBytes = 10 << 20;  // Of earlier runs of a job.
constexpr absl::Duration kGrace = absl::Seconds(10);  // SIGTERM to SIGKILL.

// Whether the process, and the machine, have one left right now.
bool HasDescriptors() {
  const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  close(fd);
  return true;
}

// UNAVAILABLE where the lack that `error` tells of may pass.
absl::Status StartError(int error, absl::string_view what) {
  const absl::Status status = absl::ErrnoToStatus(error, what);
  const bool may_pass =
      error == EMFILE || error == ENFILE || error == EAGAIN || error == ENOMEM;
  return may_pass ? absl::UnavailableError(status.message()) : status;
}

// A child that is running or not yet reaped, so that its pid is its own.
class Child {
 public:
  explicit Child(pid_t pid) : pid_(pid) {}

  // Waits for the end; returns waitpid's status.
  int Reap() ABSL_LOCKS_EXCLUDED(mu_) {
    // Leaves the zombie, so that no signal can meet a stranger with its pid.
    siginfo_t info;
    while (waitid(P_PID, pid_, &info, WEXITED | WNOWAIT) != 0 &&
           errno == EINTR) {
    }
    const MutexLock lock(mu_);
    ended_ = true;
    int status = 0;
    waitpid(pid_, &status, 0);
    return status;
  }

  // Asks for the end, then enforces it. Returns when Reap is done.
  void Terminate() ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    const auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return ended_;
    };
    if (ended_) return;
    kill(pid_, SIGTERM);
    if (!mu_.AwaitFor(kGrace, ended)) kill(pid_, SIGKILL);
  }

 private:
  const pid_t pid_;
  Mutex mu_;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
};

// Starts `binary` with `in` (-1: nothing) and `out` as its standard input and
// output. It has a process group of
// its own, so that a terminal's Ctrl-C reaches only the server, and no signal
// blocked, whatever the server blocks.
absl::StatusOr<pid_t> Spawn(const std::filesystem::path& binary,
                            const std::filesystem::path& job_dir, int in,
                            int out) {
  const std::string log = job_dir / "trainer.log";
  std::error_code ignored;
  const uintmax_t logged = std::filesystem::file_size(log, ignored);
  const int cut = !ignored && logged > kMaxLogBytes ? O_TRUNC : 0;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  if (in >= 0) {
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
  } else {
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null",
                                     O_RDONLY, 0);
  }
  posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND | cut, 0644);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);

  std::string name = binary, flag = "--spec", spec = job_dir / "spec";
  char* argv[] = {name.data(), flag.data(), spec.data(), nullptr};
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, binary.c_str(), &actions, &attributes, argv, environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0)
    return StartError(error, absl::StrCat("start ", binary.native()));
  return pid;
}

// Reads events until the pipe closes. OK if the last word was `done`.
absl::Status ReadEvents(int in, const EventFn& on_event) {
  google::protobuf::io::FileInputStream stream(in);
  absl::Status result = absl::UnknownError("it said nothing");
  while (true) {
    trainer::TrainerEvent event;
    if (!google::protobuf::util::ParseDelimitedFromZeroCopyStream(
            &event, &stream, /*clean_eof=*/nullptr)) {
      return result;
    }
    if (event.has_error()) {
      result = FromRpcStatus(event.error());
    } else if (event.done()) {
      result = absl::OkStatus();
    } else {
      on_event(event);
    }
  }
}

absl::Status DeathOf(int wait_status, const std::filesystem::path& job_dir) {
  const std::string how =
      WIFSIGNALED(wait_status)
          ? absl::StrCat("was killed by signal ", WTERMSIG(wait_status), " (",
                         strsignal(WTERMSIG(wait_status)), ")")
          : absl::StrCat("exited with code ", WEXITSTATUS(wait_status));
  return absl::AbortedError(absl::StrCat(
      "the trainer ", how, "; its log is ", (job_dir / "trainer.log").native(),
      WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL
          ? "; perhaps the machine ran out of memory: try a smaller batch_size"
          : ""));
}

}  // namespace

absl::Status RunTrainer(const std::filesystem::path& binary,
                        const std::filesystem::path& job_dir,
                        const trainer::TrainerSpec& spec,
                        const EventFn& on_event, const std::stop_token& stop,
                        int standard_input) {
  const absl::Status written =
      WriteFileAtomically(job_dir / "spec", spec.SerializeAsString());
  if (!written.ok()) {
    return HasDescriptors() ? written
                            : absl::UnavailableError(written.message());
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return StartError(errno, "pipe");
  const absl::Cleanup close_in = [&] { close(ends[0]); };
  const absl::StatusOr<pid_t> pid =
      Spawn(binary, job_dir, standard_input, ends[1]);
  close(ends[1]);  // Or the pipe would never end.
  if (!pid.ok()) return pid.status();

  Child child(*pid);
  absl::Status said;
  int wait_status = 0;
  {
    std::jthread terminator;
    const std::stop_callback on_stop(
        stop, [&] { terminator = std::jthread([&] { child.Terminate(); }); });
    said = ReadEvents(ends[0], on_event);
    wait_status = child.Reap();
  }
  if (wait_status == 0 && said.ok()) return said;
  if (stop.stop_requested())
    return absl::CancelledError("training was stopped");
  const bool reported =
      WIFEXITED(wait_status) && !said.ok() && !absl::IsUnknown(said) &&
      !absl::IsCancelled(said);  // By a SIGTERM that was not ours.
  return reported ? said : DeathOf(wait_status, job_dir);
}

}  // namespace finetune
