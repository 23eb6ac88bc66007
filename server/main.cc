// finetuned: the server.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <iostream>
#include <string>
#include <thread>

#include "common/flag_names.h"
#include "server/library_log.h"
#include "server/log.h"
#include "server/options.h"
#include "server/process_start.h"
#include "server/server.h"
#include "server/service/create_token_file.h"
#include "server/settings_file.h"

namespace {

// What `app` says of an error of the settings: one line.
std::string InOneLine(const CLI::App* app, const CLI::Error& error) {
  return app->get_name() + ": " + error.what() + "\n";
}

void WarnOfUnknownVariables(const CLI::App& app) {
  for (const std::string& text : finetune::UnknownVariables(app, environ)) {
    finetune::LogEvent(spdlog::level::warn, {{"message", text}});
  }
}

// As --create_token_file says. The token is printed this one time.
absl::Status CreateTokens(const finetune::ServerOptions& options) {
  if (!options.create_token_file) return absl::OkStatus();
  const auto token = finetune::CreateTokenFile(options.token_file);
  if (token.ok() && !token->empty()) {
    std::cout << "generated admin token: " << *token << " (kept in "
              << options.token_file.native() << ")" << std::endl;
  }
  return token.status();
}

// Serves until a signal, or until it cannot go on. Returns the exit code.
int Serve(const finetune::ServerOptions& options, const sigset_t& signals) {
  const finetune::LibraryLog library_log;
  std::atomic<bool> failed = false, draining = false;
  auto server = finetune::Server::Start(options, [&failed, &draining] {
    failed = true;
    if (!draining) kill(getpid(), SIGTERM);  // As below.
  });
  if (!server.ok()) {
    std::cerr << "finetuned: " << server.status().message() << std::endl;
    return 1;
  }
  std::cout << "listening on " << (*server)->address() << std::endl;

  int signal_number = 0;
  sigwait(&signals, &signal_number);
  draining = true;
  std::thread([hurried = signals]() mutable {
    // Whoever asks twice is in a hurry. What is on disk is whole at any time,
    // and trainers die with this process. A terminal that goes away may say so
    // twice, by the shell and by the system.
    sigdelset(&hurried, SIGHUP);
    int again = 0;
    sigwait(&hurried, &again);
    _exit(128 + again);
  }).detach();
  (*server)->Shutdown();
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  finetune::OpenStandardStreams();
  finetune::MakeNewFilesPrivate();
  finetune::RaiseFileLimit();
  // Before any thread exists, so that all of them leave the signals to sigwait.
  const sigset_t signals = finetune::BlockEndingSignals();

  finetune::ServerOptions options;
  CLI::App app(
      "Serves fine-tuning of ResNet18 and classification over gRPC.\n"
      "Every setting is a flag, an environment variable, or a line of the\n"
      "configuration file. A flag counts before the file, and the file before\n"
      "the environment.",
      "finetuned");
  app.set_version_flag("--version", FINETUNE_VERSION);
  app.failure_message(InOneLine);
  finetune::AddServerOptions(app, options);
  finetune::SpellFlagsAs(app, argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }

  if (const absl::Status created = CreateTokens(options); !created.ok()) {
    std::cerr << "finetuned: " << created.message() << std::endl;
    return 1;
  }
  finetune::SetUpLog(
      {.format = options.log_format, .level = options.log_level});
  WarnOfUnknownVariables(app);
  const int exit_code = Serve(options, signals);
  finetune::ShutDownLog();
  return exit_code;
}
