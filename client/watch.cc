#include "client/watch.h"

#include <signal.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "client/progress_printer.h"
#include "common/grpc_status.h"
#include "common/mutex.h"
#include "common/utf8.h"
#include "finetune/v1/training_service.grpc.pb.h"

namespace finetune {
namespace {

sigset_t InterruptSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

// Takes SIGINT, where it is blocked, and ends the call or wait that goes on.
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

  // Waits for Ctrl-C. Returns whether there was one, now or before.
  bool WaitFor(absl::Duration timeout) ABSL_LOCKS_EXCLUDED(mu_) {
    const MutexLock lock(mu_);
    return mu_.AwaitFor(timeout, [this] { return interrupted_; });
  }

 private:
  void Listen(const std::stop_token& stop) {
    const sigset_t set = InterruptSet();
    const timespec poll = {.tv_sec = 0, .tv_nsec = 50'000'000};
    while (!stop.stop_requested()) {
      if (sigtimedwait(&set, nullptr, &poll) != SIGINT) continue;
      const MutexLock lock(mu_);
      interrupted_ = true;
      if (context_ != nullptr) context_->TryCancel();
      return;
    }
  }

  Mutex mu_;
  bool interrupted_ ABSL_GUARDED_BY(mu_) = false;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mu_) = nullptr;
  std::jthread thread_;
};

// Whether the next stream would end in the same way.
bool IsFinal(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

// One watch, over as many streams as it takes.
class Watch {
 public:
  Watch(const Connection& connection, const std::string& job_id,
        const WatchOptions& options, std::ostream& out, std::ostream& err)
      : connection_(connection),
        options_(options),
        out_(out),
        err_(err),
        stub_(v1::TrainingService::NewStub(connection.channel)),
        printer_(options.terminal_width, out),
        is_known_(options.job_is_known) {
    request_.set_job_id(job_id);
  }

  ExitCode Run() {
    absl::Duration waited;  // Since the server last answered.
    for (int failures = 0;; ++failures) {
      const uint64_t before = request_.after_sequence();
      const absl::Status status = FollowStream();
      if (HasEnded(latest_.job())) return ExitCodeOf(latest_.job());
      if (interrupt_.WaitFor(absl::ZeroDuration())) return Interrupted();
      if (IsFinal(status)) return Fail(status);
      const bool has_news = request_.after_sequence() > before;
      if (has_news) failures = 0;
      if (has_news || Answers()) {
        is_known_ = true;
        waited = absl::ZeroDuration();
        lost_is_said_ = false;
      } else if (!is_known_ && ExitCodeOf(status) == kUnreachable) {
        return Fail(status);
      } else {
        SayLost(status);
      }
      const absl::Duration wait =
          options_.first_wait * (1 << std::min(failures, 3));
      if (waited + wait > options_.patience) return GiveUp(status);
      if (interrupt_.WaitFor(wait)) return Interrupted();
      waited += wait;
    }
  }

 private:
  // Prints what one stream says. Why it ended; OK only after the job.
  absl::Status FollowStream() {
    grpc::ClientContext context;
    connection_.PrepareStream(context);
    interrupt_.Guard(&context);
    const auto reader = stub_->WatchProgress(&context, request_);
    while (reader->Read(&latest_)) {
      request_.set_after_sequence(latest_.sequence());
      if (connection_.json) {
        PrintJson(latest_, out_);
      } else {
        printer_.Print(latest_.job());
      }
    }
    const absl::Status status = FromGrpcStatus(reader->Finish());
    interrupt_.Guard(nullptr);
    if (status.ok() && !HasEnded(latest_.job())) {
      return absl::InternalError("the server ended the watch before the job");
    }
    return status;
  }

  // Whether the server knows the job, which a stream without news leaves open:
  // a proxy may have ended it while nothing happened. A job that has ended is
  // then asked for from the start: a stream after a number that the server has
  // lost, in a crash, ends without the job's last state.
  bool Answers() {
    grpc::ClientContext context;
    connection_.PrepareCall(context);
    interrupt_.Guard(&context);
    v1::GetProgressRequest request;
    request.set_job_id(request_.job_id());
    v1::GetProgressResponse response;
    const bool ok = stub_->GetProgress(&context, request, &response).ok();
    interrupt_.Guard(nullptr);
    if (ok && HasEnded(response.job())) request_.set_after_sequence(0);
    return ok;
  }

  // Once for each time that the server is away.
  void SayLost(const absl::Status& status) {
    if (std::exchange(lost_is_said_, true)) return;
    printer_.Break();
    err_ << "finetune: " << ToPrintable(connection_.server) << " has gone ("
         << ToPrintable(status.message()) << "); trying again for "
         << absl::FormatDuration(options_.patience) << std::endl;
  }

  ExitCode Fail(const absl::Status& status) {
    printer_.Break();
    return PrintError(connection_, status, err_);
  }

  // Whatever a proxy makes of it: there was no answer in time.
  ExitCode GiveUp(const absl::Status& status) {
    return Fail(absl::UnavailableError(status.message()));
  }

  ExitCode Interrupted() {
    printer_.Break();
    err_ << "The job goes on. Watch it again with: finetune watch "
         << ToPrintable(request_.job_id()) << "\n";
    return kInterrupted;
  }

  const Connection& connection_;
  const WatchOptions& options_;
  std::ostream& out_;
  std::ostream& err_;
  const std::unique_ptr<v1::TrainingService::Stub> stub_;
  ProgressPrinter printer_;
  InterruptGuard interrupt_;
  v1::WatchProgressRequest request_;
  v1::WatchProgressResponse latest_;
  bool is_known_;  // The server has answered for the job.
  bool lost_is_said_ = false;
};

}  // namespace

bool HasEnded(const v1::FineTuneJob& job) {
  return job.state() == v1::JOB_STATE_SUCCEEDED ||
         job.state() == v1::JOB_STATE_FAILED ||
         job.state() == v1::JOB_STATE_CANCELLED;
}

ExitCode ExitCodeOf(const v1::FineTuneJob& job) {
  return job.state() == v1::JOB_STATE_SUCCEEDED ? kDone : kFailed;
}

void BlockInterrupt() {
  const sigset_t set = InterruptSet();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

int TerminalWidth(int fd) {
  winsize size;
  if (!isatty(fd) || ioctl(fd, TIOCGWINSZ, &size) != 0) {
    return 0;
  }
  return size.ws_col > 0 ? size.ws_col : 80;
}

ExitCode WatchJob(const Connection& connection, const std::string& job_id,
                  const WatchOptions& options, std::ostream& out,
                  std::ostream& err) {
  return Watch(connection, job_id, options, out, err).Run();
}

}  // namespace finetune
