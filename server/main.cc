// finetuned: the server.

#include <signal.h>

#include <iostream>

#include "server/options.h"
#include "server/server.h"

int main(int argc, char** argv) {
  // Before any thread exists, so that all of them leave the signals to sigwait.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  finetune::ServerOptions options;
  CLI::App app(
      "Serves fine-tuning of ResNet18 and classification over gRPC.\n"
      "Every setting is a flag, an environment variable, or a line of the\n"
      "configuration file. A flag counts before the file, and the file before\n"
      "the environment.",
      "finetuned");
  app.set_version_flag("--version", FINETUNE_VERSION);
  finetune::AddServerOptions(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }

  auto server = finetune::Server::Start(options);
  if (!server.ok()) {
    std::cerr << "finetuned: " << server.status().message() << std::endl;
    return 1;
  }
  std::cout << "listening on " << (*server)->address() << std::endl;

  int signal_number = 0;
  sigwait(&signals, &signal_number);
  (*server)->Shutdown();
  return 0;
}
