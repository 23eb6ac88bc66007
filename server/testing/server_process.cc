#include "server/testing/server_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace finetune::testing {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (std::string& text : strings) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Reads up to the line that names the address; "" if it never comes.
std::string ReadAddress(int fd) {
  constexpr char kPrefix[] = "listening on ";
  std::unique_ptr<FILE, int (*)(FILE*)> out(fdopen(fd, "r"), fclose);
  char line[256];
  while (fgets(line, sizeof line, out.get()) != nullptr) {
    if (!absl::StartsWith(line, kPrefix)) continue;
    std::string address = line + sizeof kPrefix - 1;
    address.pop_back();  // The end of the line.
    return address;
  }
  return "";
}

}  // namespace

ServerProcess::ServerProcess(const std::vector<std::string>& command,
                             const std::vector<std::string>& environment,
                             const std::string& log) {
  std::vector<std::string> arguments = command, variables = environment;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    variables.push_back(*variable);
  }
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0644);
  const int error =
      posix_spawn(&pid_, arguments[0].c_str(), &actions, nullptr,
                  Pointers(arguments).data(), Pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (error != 0) pid_ = 0;
  address_ = ReadAddress(ends[0]);
  if (!address_.empty()) channel_ = Connect();
}

std::shared_ptr<grpc::Channel> ServerProcess::Connect() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address_, grpc::InsecureChannelCredentials(),
                                   arguments);
}

ServerProcess::~ServerProcess() { Kill(); }

double ServerProcess::ResidentMegabytes() const {
  std::ifstream status(absl::StrCat("/proc/", pid_, "/status"));
  std::string line;
  while (std::getline(status, line)) {
    if (absl::StartsWith(line, "VmRSS:")) {
      return std::stod(line.substr(6)) / 1024;
    }
  }
  return 0;
}

void ServerProcess::Kill() {
  if (pid_ == 0) return;
  kill(pid_, SIGKILL);
  Wait();
}

int ServerProcess::Terminate() {
  if (pid_ == 0) return -1;
  kill(pid_, SIGTERM);
  return Wait();
}

int ServerProcess::Wait() {
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = 0;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

bool ServerProcess::IsRunning() const {
  siginfo_t info{};
  return pid_ != 0 &&
         waitid(P_PID, pid_, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

bool ServerProcess::KillTrainer() const {
  bool killed = false;
  for (const pid_t child : Children()) killed |= kill(child, SIGKILL) == 0;
  return killed;
}

std::vector<pid_t> ServerProcess::Children() const {
  std::vector<pid_t> children;
  std::error_code ignored;
  const std::string tasks = absl::StrCat("/proc/", pid_, "/task");
  for (const auto& task : std::filesystem::directory_iterator(tasks, ignored)) {
    std::ifstream list(task.path() / "children");
    pid_t child = 0;
    while (list >> child) children.push_back(child);
  }
  return children;
}

}  // namespace finetune::testing
