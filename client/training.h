// `finetune start` and `finetune progress`.

#ifndef CLIENT_TRAINING_H_
#define CLIENT_TRAINING_H_

#include <ostream>
#include <string>

#include "client/connection.h"
#include "client/watch.h"
#include "finetune/v1/training_service.pb.h"

namespace finetune {

// Starts the job and, where `watch` is set, follows it. A server that does not
// answer is asked again a few times, over some seconds: with a `request_id`,
// which is drawn where the request has none, this cannot start a second job.
// With `validate_only`, prints what the job would be. A data set that the
// server does not know, but that is a folder with train/ on this machine, is
// uploaded first, where the server lets us (see CheckMayUpload). kUsage where
// the request names no model and the data set's name gives none.
ExitCode StartJob(const Connection& connection,
                  v1::StartFineTuneRequest request, bool watch,
                  const WatchOptions& options, std::ostream& out,
                  std::ostream& err);

// Prints a snapshot. kFailed if the job failed or was cancelled.
ExitCode ShowJob(const Connection& connection, const std::string& job_id,
                 std::ostream& out, std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_TRAINING_H_
