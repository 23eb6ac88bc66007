// finetune: the command line of the service.

#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/classify.h"
#include "client/connection.h"
#include "client/training.h"
#include "client/watch.h"

namespace finetune {
namespace {

constexpr char kFooter[] =
    "Every command takes --server, --timeout and --json; see finetune --help.\n"
    "\n"
    "Exit codes: 0 done; 1 the job failed, an image could not be classified,\n"
    "or the server refused; 2 usage; 3 server unreachable; 130 Ctrl-C while\n"
    "watching (the job goes on).";
constexpr char kWatchHelp[] =
    "Follow the job to its end; Ctrl-C stops watching, not the job";

// Sets a field only if its option is given: absent is the server's default.
void AddHyperParameters(CLI::App& app, v1::HyperParameters& p) {
  app.add_option_function<int>(
      "--epochs", [&p](int v) { p.set_epochs(v); },
      "Passes over the training images, 1..1000 [5]");
  app.add_option_function<double>(
      "--lr", [&p](double v) { p.set_learning_rate(v); },
      "SGD step size of the pretrained layers, (0, 10] [0.01]");
  app.add_option_function<double>(
      "--head-lr", [&p](double v) { p.set_head_learning_rate(v); },
      "SGD step size of the new fc layer, (0, 100] [10 x lr]");
  app.add_option_function<double>(
      "--weight-decay", [&p](double v) { p.set_weight_decay(v); },
      "L2 penalty on every parameter, 0..1 [0.001]");
  app.add_option_function<double>(
      "--momentum", [&p](double v) { p.set_momentum(v); },
      "SGD momentum, [0, 1) [0]");
  app.add_option_function<int>(
      "--batch-size", [&p](int v) { p.set_batch_size(v); },
      "Images per step, 1..1024 [64]");
  app.add_option_function<uint64_t>(
      "--seed", [&p](uint64_t v) { p.set_seed(v); },
      "Fixes image order, augmentation and the new layer, 0..2^64-1 [drawn]");
  app.add_flag_callback(
      "--from-scratch", [&p] { p.set_from_scratch(true); },
      "Train without pretrained weights");
}

// What the command line says.
struct Arguments {
  Connection connection;
  v1::StartFineTuneRequest start;
  std::string job_id;
  bool watch = false;
  std::vector<std::string> images;
  ClassifyOptions classify;
};

void AddConnection(CLI::App& app, Connection& connection) {
  app.add_option("--server", connection.server, "HOST:PORT of finetuned")
      ->envname("FINETUNE_SERVER")
      ->capture_default_str();
  app.add_option("--timeout", connection.timeout_seconds,
                 "Seconds to wait for an answer; a watch has no such limit")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str();
  app.add_flag("--json", connection.json,
               "Print the answer as JSON, one object a line");
}

CLI::App* AddStart(CLI::App& app, Arguments& arguments) {
  auto* start = app.add_subcommand(
      "start", "Start a fine-tuning job; what is not set, the server chooses");
  start
      ->add_option("DATASET", *arguments.start.mutable_dataset(),
                   "Folder below the server's data root that holds "
                   "train/<class>/ and test/<class>/ (or val/)")
      ->required();
  start->add_option(
      "--name", *arguments.start.mutable_model_name(),
      "Model to publish, 1..63 of a-z, 0-9 and '-' [the folder's name]");
  AddHyperParameters(*start, *arguments.start.mutable_hyper_parameters());
  start->add_flag("--watch", arguments.watch, kWatchHelp);
  return start;
}

CLI::App* AddProgress(CLI::App& app, Arguments& arguments) {
  auto* progress = app.add_subcommand(
      "progress", "Show how far a job is, its epochs and its settings");
  progress->add_option("JOB", arguments.job_id, "Its id, as start printed it")
      ->required();
  progress->add_flag("--watch", arguments.watch, kWatchHelp);
  return progress;
}

std::string RefuseFolder(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::is_directory(path, ignored)) return "";
  return path + " is a folder; name the files in it";
}

void AddClassify(CLI::App& app, Arguments& arguments) {
  auto* classify = app.add_subcommand(
      "classify", "Classify images: labels with probabilities, 0..1");
  classify
      ->add_option("IMAGE", arguments.images,
                   "JPEG, PNG, WebP or BMP files, not folders")
      ->required()
      ->check(CLI::Validator(RefuseFolder, "FILE"));
  classify->add_option_function<std::string>(
      "--model",
      [&arguments](const std::string& text) {
        auto ref = ParseModelRef(text);
        if (!ref.ok()) {
          throw CLI::ValidationError("--model",
                                     std::string(ref.status().message()));
        }
        arguments.classify.model = *std::move(ref);
      },
      "NAME[@VERSION] [the model promoted last]");
  classify
      ->add_option("--top-k", arguments.classify.top_k,
                   "Labels to print for each image; 0: all")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
}

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Fine-tunes ResNet18 on your photos and classifies with it.",
               "finetune");
  app.require_subcommand(1);
  app.fallthrough();  // Options of the program may follow the command.
  app.footer(kFooter);
  app.set_version_flag("--version", FINETUNE_VERSION);
  AddConnection(app, arguments.connection);
  const CLI::App* const start = AddStart(app, arguments);
  const CLI::App* const progress = AddProgress(app, arguments);
  AddClassify(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kDone : kUsage;
  }

  if (arguments.watch) BlockInterrupt();
  Connection& connection = arguments.connection;
  connection.channel = Connect(connection.server);
  const WatchOptions watching{.terminal_width = TerminalWidth()};
  if (start->parsed()) {
    return StartJob(connection, arguments.start, arguments.watch, watching,
                    std::cout, std::cerr);
  }
  if (progress->parsed() && arguments.watch) {
    return WatchJob(connection, arguments.job_id, watching, std::cout,
                    std::cerr);
  }
  if (progress->parsed()) {
    return ShowJob(connection, arguments.job_id, std::cout, std::cerr);
  }
  return ClassifyFiles(connection, arguments.images, arguments.classify,
                       std::cout, std::cerr);
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) { return finetune::Main(argc, argv); }
