// What a process does for itself before anything else, in this order and before
// it starts a thread.

#ifndef SERVER_PROCESS_START_H_
#define SERVER_PROCESS_START_H_

#include <signal.h>

namespace finetune {

// Opens /dev/null in place of standard streams that are closed: else the first
// files that are opened become them, and the log is written into the database.
void OpenStandardStreams();

// What the process creates from now on is for its own user alone: photos,
// models, the database.
void MakeNewFilesPrivate();

// As many files and connections at once as the system lets a process ask for.
void RaiseFileLimit();

// Blocks the signals that ask a server to end, and returns them for sigwait:
// SIGTERM, SIGINT and SIGHUP, the last one not where it is ignored, as nohup
// has it for a process that is to outlive its terminal. Writes to connections
// that are gone fail from now on, without a signal.
sigset_t BlockEndingSignals();

}  // namespace finetune

#endif  // SERVER_PROCESS_START_H_
