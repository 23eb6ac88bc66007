// finetune-trainer: one job in one process. Reads a TrainerSpec, writes
// TrainerEvents to standard output, checkpoints and the model to the spec's
// folders. Standard input may be the server's ServingActivity. SIGTERM: writes
// a checkpoint and ends. It ends, too, when nobody reads the events any more: a
// trainer without a server is no use.

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <iostream>
#include <memory>
#include <new>
#include <stop_token>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "common/file.h"
#include "common/flag_names.h"
#include "common/rpc_status.h"
#include "common/serving_activity.h"
#include "common/sha256.h"
#include "common/status_macros.h"
#include "common/yield_to_callers.h"
#include "google/protobuf/io/zero_copy_stream_impl.h"
#include "google/protobuf/util/delimited_message_util.h"
#include "google/protobuf/util/time_util.h"
#include "server/data/dataset.h"
#include "server/model/device.h"
#include "server/model/registry.h"
#include "server/model/safetensors.h"
#include "server/process_start.h"
#include "server/training/fine_tuner.h"

namespace finetune {
namespace {

using trainer::TrainerEvent;
using trainer::TrainerSpec;

constexpr uint64_t kMaxSpecBytes = 1 << 20;

// Until then there is nothing to save, and SIGTERM ends the process at once.
std::atomic<bool> is_training = false;

// The standard output as it was; whatever else prints there goes to standard
// error instead.
int TakeStandardOutput() {
  const int events = dup(STDOUT_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  return events;
}

// Where the server died before this process could ask to be told (see main),
// its end of the pipe is closed.
bool ReaderIsGone(int events) {
  pollfd pipe = {.fd = events};
  return poll(&pipe, 1, /*timeout=*/0) == 1 && (pipe.revents & POLLERR) != 0;
}

class EventWriter {
 public:
  explicit EventWriter(int fd) : fd_(fd) {}

  // Ends the process where the event cannot be written. Checkpoints are whole
  // at any time.
  void Write(const TrainerEvent& event) const {
    google::protobuf::io::FileOutputStream stream(fd_);
    if (google::protobuf::util::SerializeDelimitedToZeroCopyStream(event,
                                                                   &stream) &&
        stream.Flush()) {
      return;
    }
    std::cerr << "nobody reads the events: the server is gone" << std::endl;
    _exit(1);
  }

 private:
  const int fd_;
};

// Waits until no other trainer works in the job's folder: one that a crashed
// server left behind may still be dying. Held until the process ends.
absl::Status LockJobFolder(const std::string& spec_file) {
  const std::filesystem::path folder =
      std::filesystem::absolute(spec_file).parent_path();
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  while (fd < 0 || flock(fd, LOCK_EX) != 0) {
    if (fd < 0 || errno != EINTR) {
      return absl::ErrnoToStatus(errno, absl::StrCat("lock ", folder.native()));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteModel(const TrainerSpec& spec, const Dataset& dataset,
                        const FineTuner::Result& result) {
  const std::filesystem::path dir = spec.model_dir();
  const std::string weights = SerializeSafetensors(result.best);
  v1::Model model;
  for (const std::string& label : dataset.folder.classes) {
    model.add_labels(label);
  }
  model.set_test_accuracy(result.test_accuracy);
  model.set_job_id(spec.job_id());
  model.set_weights_sha256(Sha256Hex(weights));
  model.set_dataset_digest(dataset.stats.digest());
  *model.mutable_create_time() =
      google::protobuf::util::TimeUtil::GetCurrentTime();
  // What a killed trainer left there must not be published with it.
  std::error_code error;
  std::filesystem::remove_all(dir, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(),
                               absl::StrCat("remove ", dir.native()));
  }
  RETURN_IF_ERROR(MakeFolders(dir));
  RETURN_IF_ERROR(WriteFileAtomically(dir / kWeightsFile, weights));
  return WriteModelFile(dir, model);
}

// Links may lead anywhere in the data root, and in an upload nowhere out of it.
std::filesystem::path BoundaryOf(const TrainerSpec& spec) {
  return IsBelow(spec.dataset_dir(), spec.data_root()) ? spec.data_root()
                                                       : spec.dataset_dir();
}

// For this thread and those it starts. Where the system refuses, training goes
// on as it is.
void TakePriority(TrainerSpec::Priority priority) {
  const sched_param none{};
  if (priority == TrainerSpec::IDLE &&
      sched_setscheduler(0, SCHED_IDLE, &none) == 0) {
    return;
  }
  if (priority == TrainerSpec::NORMAL) {
    YieldToCallers();
  } else {
    setpriority(PRIO_PROCESS, 0, 19);
  }
}

// Whether the server has answered a call within the last second; false without
// a server that says so.
FineTuner::ServingFn IsServing() {
  constexpr absl::Duration kWindow = absl::Seconds(1);
  auto opened = ServingActivity::Open(STDIN_FILENO);
  if (!opened.ok()) return [] { return false; };
  return [activity = std::shared_ptr<ServingActivity>(*std::move(opened))] {
    return activity->WithinLast(kWindow);
  };
}

absl::Status Train(const TrainerSpec& spec, const EventWriter& events,
                   const std::stop_token& stop) {
  ASSIGN_OR_RETURN(ImageFolder folder,
                   OpenImageFolder(spec.dataset_dir(), BoundaryOf(spec)));
  ASSIGN_OR_RETURN(
      const Dataset dataset,
      ScanDataset(std::move(folder), {.max_pixels = spec.max_image_pixels()},
                  spec.decode_threads()));
  TrainerEvent scanned;
  *scanned.mutable_dataset_stats() = dataset.stats;
  events.Write(scanned);
  if (spec.validate_only()) return absl::OkStatus();

  is_training = true;
  torch::set_num_threads(spec.threads());
  ASSIGN_OR_RETURN(FineTuner tuner,
                   FineTuner::Create(spec, dataset, absl::Now, IsServing()));
  if (!tuner.resumed().empty()) {
    TrainerEvent resumed;
    resumed.set_resumed(tuner.resumed());
    events.Write(resumed);
  }
  ASSIGN_OR_RETURN(const FineTuner::Result result,
                   tuner.Run(
                       [&](const v1::Progress& progress) {
                         TrainerEvent event;
                         *event.mutable_progress() = progress;
                         events.Write(event);
                       },
                       stop));
  return WriteModel(spec, dataset, result);
}

// The edge of the exception world.
absl::Status TrainCatching(const std::string& spec_file,
                           const EventWriter& events,
                           const std::stop_token& stop) try {
  RETURN_IF_ERROR(LockJobFolder(spec_file));
  ASSIGN_OR_RETURN(const std::string bytes, ReadFile(spec_file, kMaxSpecBytes));
  TrainerSpec spec;
  if (!spec.ParseFromString(bytes)) {
    return absl::InvalidArgumentError(spec_file + " is not a TrainerSpec");
  }
  TakePriority(spec.priority());
  return Train(spec, events, stop);
} catch (const c10::Error& e) {
  const std::string what = e.what_without_backtrace();
  if (IsOutOfCpuMemory(what)) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "out of memory: try a smaller batch_size (", FirstLine(what), ")"));
  }
  if (!IsOutOfGpuMemory(what)) return absl::InternalError(what);
  return absl::ResourceExhaustedError(absl::StrCat(
      "out of GPU memory: try a smaller batch_size (", FirstLine(what), ")"));
} catch (const std::bad_alloc&) {
  return absl::ResourceExhaustedError(
      "out of memory: try a smaller batch_size");
} catch (const std::exception& e) {
  return absl::InternalError(e.what());
}

int Main(const std::string& spec_file) {
  KeepFreedMemory();
  signal(SIGPIPE, SIG_IGN);  // Writes fail instead.
  const int out = TakeStandardOutput();
  if (ReaderIsGone(out)) return 1;
  const EventWriter events(out);
  std::stop_source stop;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::thread([&stop, signals] {
    int signal_number = 0;
    sigwait(&signals, &signal_number);
    if (!is_training) _exit(1);
    stop.request_stop();
  }).detach();

  const absl::Status status =
      TrainCatching(spec_file, events, stop.get_token());
  TrainerEvent last;
  if (status.ok()) {
    last.set_done(true);
  } else {
    std::cerr << status << std::endl;
    *last.mutable_error() = ToRpcStatus(status);
  }
  events.Write(last);
  // No destructors: the thread above still waits.
  _exit(status.ok() ? 0 : 1);
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  finetune::OpenStandardStreams();
  finetune::MakeNewFilesPrivate();
  std::string spec_file;
  CLI::App app("Runs one fine-tuning job for finetuned.", "finetune-trainer");
  app.set_version_flag("--version", FINETUNE_VERSION);
  app.add_option("--spec", spec_file, "File that holds a TrainerSpec")
      ->required()
      ->check(CLI::ExistingFile);
  finetune::SpellFlagsAs(app, argc, argv);
  CLI11_PARSE(app, argc, argv);
  return finetune::Main(spec_file);
}
