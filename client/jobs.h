// `finetune list`, `finetune cancel` and `finetune resume`.

#ifndef CLIENT_JOBS_H_
#define CLIENT_JOBS_H_

#include <ostream>
#include <string>
#include <vector>

#include "client/connection.h"
#include "client/watch.h"
#include "finetune/v1/job.pb.h"

namespace finetune {

struct ListOptions {
  std::vector<v1::JobState> states;  // Empty: all.
  int limit = 20;                    // Jobs, >= 1; the newest ones.
};

// Prints the jobs as a table, or as JSON: one FineTuneJob a line.
ExitCode ListJobs(const Connection& connection, const ListOptions& options,
                  std::ostream& out, std::ostream& err);

// Asks the server to end the job and prints the state that it is in then;
// kDone also where it had ended before.
ExitCode CancelJob(const Connection& connection, const std::string& job_id,
                   std::ostream& out, std::ostream& err);

// Queues the job again and, where `watch` is set, follows it.
ExitCode ResumeJob(const Connection& connection, const std::string& job_id,
                   bool watch, const WatchOptions& options, std::ostream& out,
                   std::ostream& err);

}  // namespace finetune

#endif  // CLIENT_JOBS_H_
