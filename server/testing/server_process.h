// finetuned as users run it, in a process of its own that can be killed.

#ifndef SERVER_TESTING_SERVER_PROCESS_H_
#define SERVER_TESTING_SERVER_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"

namespace finetune::testing {

// Not thread-safe, but Kill and KillTrainer may be called from anywhere.
class ServerProcess {
 public:
  // Runs `command` and waits until it listens. `environment` holds NAME=VALUE.
  // Its log goes to `log`.
  ServerProcess(const std::vector<std::string>& command,
                const std::vector<std::string>& environment,
                const std::string& log);

  // As Kill.
  ~ServerProcess();
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  // Null if it ended without listening.
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // A channel with a connection of its own.
  std::shared_ptr<grpc::Channel> Connect() const;

  // HOST:PORT; empty if it ended without listening.
  const std::string& address() const { return address_; }

  pid_t pid() const { return pid_; }

  // What it holds in memory; 0 if it has ended.
  double ResidentMegabytes() const;

  // SIGKILL, and waits for the end, that of its trainer included.
  void Kill();

  // SIGTERM, and waits. Returns the exit code, -1 if it was killed.
  int Terminate();

  // Waits until it ends by itself. Returns as Terminate.
  int Wait();

  // SIGKILL to its trainer. Returns whether there was one.
  bool KillTrainer() const;

  // Whether it has not ended by itself.
  bool IsRunning() const;

 private:
  std::vector<pid_t> Children() const;

  pid_t pid_ = 0;
  std::string address_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace finetune::testing

#endif  // SERVER_TESTING_SERVER_PROCESS_H_
