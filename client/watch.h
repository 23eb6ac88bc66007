// Following a job to its end.

#ifndef CLIENT_WATCH_H_
#define CLIENT_WATCH_H_

#include <unistd.h>

#include <ostream>
#include <string>

#include "absl/time/time.h"
#include "client/connection.h"
#include "finetune/v1/job.pb.h"

namespace finetune {

struct WatchOptions {
  int terminal_width = 0;  // Columns; 0: not a terminal.
  // After a broken stream: how long to wait before the first try, and for how
  // long to wait in all for a server that does not answer. Each wait doubles,
  // up to eight times the first, until there is news of the job. Enough for a
  // server that is restarted or moved.
  absl::Duration first_wait = absl::Seconds(1);  // > 0.
  absl::Duration patience = absl::Minutes(10);
  // The server has just answered for the job: it is waited for also where the
  // first stream does not reach it. Else that ends the watch at once.
  bool job_is_known = false;
};

// Prints progress until the job ends: kDone if it succeeded, kFailed if it
// failed or was cancelled; kUnreachable if the server stays away. A stream that
// ends before the job, in any way, goes on where it was, unless the server
// refuses it: NOT_FOUND, PERMISSION_DENIED, UNAUTHENTICATED, INVALID_ARGUMENT
// or UNIMPLEMENTED is kFailed. With SIGINT blocked in the process, as
// BlockInterrupt does it, Ctrl-C ends the watch with kInterrupted and says how
// to take it up again; the job runs on.
ExitCode WatchJob(const Connection& connection, const std::string& job_id,
                  const WatchOptions& options, std::ostream& out,
                  std::ostream& err);

// Leaves SIGINT to WatchJob. To be called before any thread is started.
void BlockInterrupt();

// Whether the job's state is terminal.
bool HasEnded(const v1::FineTuneJob& job);

// The code for a job that has ended: kDone or kFailed.
ExitCode ExitCodeOf(const v1::FineTuneJob& job);

// Columns of the terminal that `fd` is, by default standard output; 0 if it is
// none.
int TerminalWidth(int fd = STDOUT_FILENO);

}  // namespace finetune

#endif  // CLIENT_WATCH_H_
