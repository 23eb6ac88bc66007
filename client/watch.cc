#include "client/watch.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "client/progress_printer.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "finetune/v1/training_service.grpc.pb.h"

namespace finetune {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

// Takes SIGINT, where it is blocked, and cancels the call that goes on.
class InterruptGuard {
 public:
  InterruptGuard()
      : thread_([this](const std::stop_token& stop) { Listen(stop); }) {}

  // From now on, Ctrl-C cancels `context`; null: no call.
  void Guard(grpc::ClientContext* context) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    context_ = context;
    if (interrupted_ && context_ != nullptr) context_->TryCancel();
  }
  bool interrupted() const { return interrupted_; }

 private:
  void Listen(const std::stop_token& stop) {
    const sigset_t set = InterruptSet();
    const timespec poll = {.tv_sec = 0, .tv_nsec = 50'000'000};
    while (!stop.stop_requested()) {
      if (sigtimedwait(&set, nullptr, &poll) != SIGINT) continue;
      interrupted_ = true;
      const MutexLock lock(mu_);
      if (context_ != nullptr) context_->TryCancel();
      return;
    }
  }

  std::atomic<bool> interrupted_ = false;
  Mutex mu_;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::jthread thread_;
};

}  // namespace

void BlockInterrupt() {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

int TerminalWidth() {
  winsize size;
  if (!isatty(STDOUT_FILENO) || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0) {
    return 0;
  }
  return size.ws_col > 0 ? size.ws_col : 80;
}

ExitCode WatchJob(const Connection& connection, const std::string& job_id,
                  const WatchOptions& options, std::ostream& out,
                  std::ostream& err) {
  const auto stub = v1::TrainingService::NewStub(connection.channel);
  ProgressPrinter printer(options.terminal_width, out);
  InterruptGuard interrupt;
  v1::WatchProgressRequest request;
  request.set_job_id(job_id);
  v1::WatchProgressResponse latest;
  for (int failures = 0;; ++failures) {
    grpc::ClientContext context;
    interrupt.Guard(&context);
    const auto reader = stub->WatchProgress(&context, request);
    while (reader->Read(&latest)) {
      failures = 0;
      request.set_after_sequence(latest.sequence());
      if (connection.json) {
        PrintJson(latest, out);
      } else {
        printer.Print(latest.job());
      }
    }
    const absl::Status status = FromGrpcStatus(reader->Finish());
    interrupt.Guard(nullptr);
    if (interrupt.interrupted()) {
      err << "\nThe job goes on. Watch it again with: finetune progress "
          << job_id << " --watch\n";
      return kInterrupted;
    }
    if (status.ok()) {
      return latest.job().state() == v1::JOB_STATE_SUCCEEDED ? kDone : kFailed;
    }
    if (!absl::IsUnavailable(status) || failures >= options.retries ||
        request.after_sequence() == 0) {
      PrintError(connection, status, err);
      return ExitCodeOf(status);
    }
    options.wait(absl::Seconds(1 << std::min(failures, 3)));
  }
}

}  // namespace finetune
