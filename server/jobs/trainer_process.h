// One job in a process of its own: a crash, an out-of-memory kill or a leak
// ends the job and not the service, and its memory is returned whole.

#ifndef SERVER_JOBS_TRAINER_PROCESS_H_
#define SERVER_JOBS_TRAINER_PROCESS_H_

#include <filesystem>
#include <stop_token>

#include "absl/status/status.h"
#include "finetune/trainer/trainer.pb.h"
#include "server/jobs/job_runner.h"

namespace finetune {

// Writes job_dir/spec, runs `binary` --spec job_dir/spec with its standard
// error in job_dir/trainer.log, passes on its events, and waits for its end.
// Its standard input is that descriptor of ours, else empty. Thread-safe for
// different folders.
//
// OK if the trainer said `done` and exited with 0. Else the error it reported;
// or UNAVAILABLE if it could not be started for want of descriptors, memory or
// processes, which may pass; or CANCELLED if it was stopped: a stop request
// sends it SIGTERM, and SIGKILL ten seconds later; or ABORTED that says how it
// died and where its log is.
absl::Status RunTrainer(const std::filesystem::path& binary,
                        const std::filesystem::path& job_dir,
                        const trainer::TrainerSpec& spec,
                        const EventFn& on_event, const std::stop_token& stop,
                        int standard_input = -1);

}  // namespace finetune

#endif  // SERVER_JOBS_TRAINER_PROCESS_H_
