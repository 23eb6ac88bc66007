// The changes that a job goes through, each in one place: what they set, and
// when they are refused.
//
// Pure functions on the record; see JobStore for who calls them.

#ifndef SERVER_JOBS_JOB_CHANGES_H_
#define SERVER_JOBS_JOB_CHANGES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "finetune/trainer/trainer.pb.h"
#include "finetune/v1/training_service.pb.h"

namespace finetune {

// Sorts by time of creation, and does not come twice on one state folder.
std::string NewJobId();

// Appends to the job's events and drops the oldest above 100.
void AddEvent(absl::string_view message, v1::FineTuneJob& job);

// Leaves the queue: VALIDATING, also for a job that was RUNNING before the
// server was started again. ABORTED if it has ended or is being cancelled.
absl::Status Begin(v1::FineTuneJob& job);

// Takes what the trainer says.
void Apply(const trainer::TrainerEvent& event, v1::FineTuneJob& job);

// Whether `event` is worth a write to the disk: all but steps within an epoch.
bool IsMilestone(const trainer::TrainerEvent& event,
                 const v1::FineTuneJob& job);

// QUEUED becomes CANCELLED, what runs CANCELLING; others stay.
void AskToCancel(v1::FineTuneJob& job);

// The end of a job, in one of three ways. Succeed is ABORTED if the job is
// being cancelled.
absl::Status Succeed(const v1::ModelRef& model, v1::FineTuneJob& job);
void Fail(const absl::Status& error, v1::FineTuneJob& job);
void BecomeCancelled(v1::FineTuneJob& job);

// CANCELLED or FAILED becomes QUEUED; else ABORTED or FAILED_PRECONDITION.
absl::Status Requeue(v1::FineTuneJob& job);

}  // namespace finetune

#endif  // SERVER_JOBS_JOB_CHANGES_H_
