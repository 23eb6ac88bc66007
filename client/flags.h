// The client's flags, each parsed into the message or struct that it sets.

#ifndef CLIENT_FLAGS_H_
#define CLIENT_FLAGS_H_

#include <vector>

#include "CLI/CLI.hpp"
#include "client/connection.h"
#include "finetune/v1/job.pb.h"
#include "finetune/v1/training_service.pb.h"

namespace finetune {

// --server, --timeout, --json, TLS and token, with their environment variables.
void AddConnectionFlags(CLI::App& app, Connection& connection);

// What a job can be given, besides its data set. A field is set only if its
// flag is given: absent is the server's default.
void AddStartFlags(CLI::App& app, v1::StartFineTuneRequest& request);

// --state STATE, repeatable.
void AddStateFlag(CLI::App& app, std::vector<v1::JobState>& states);

}  // namespace finetune

#endif  // CLIENT_FLAGS_H_
