// finetune: the command line of the service.

#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/classify.h"
#include "client/connection.h"
#include "client/training.h"
#include "client/watch.h"

namespace finetune {
namespace {

constexpr char kFooter[] =
    "Exit codes: 0 done; 1 the job failed, an image could not be classified,\n"
    "or the server refused; 2 usage; 3 server unreachable; 130 Ctrl-C while\n"
    "watching (the job goes on).";

// Sets the field only if the option is given: absent is the server's default.
template <typename T, typename Set>
void AddParameter(CLI::App& app, const char* name, const char* help, Set set) {
  app.add_option_function<T>(name, set, help);
}

void AddHyperParameters(CLI::App& app, v1::HyperParameters& p) {
  AddParameter<int>(app, "--epochs", "Passes over the data, 1..1000 [5]",
                    [&p](int v) { p.set_epochs(v); });
  AddParameter<double>(app, "--lr",
                       "SGD step size of the pretrained layers [0.01]",
                       [&p](double v) { p.set_learning_rate(v); });
  AddParameter<double>(app, "--head-lr",
                       "SGD step size of the new fc layer [10 x lr]",
                       [&p](double v) { p.set_head_learning_rate(v); });
  AddParameter<double>(app, "--weight-decay", "L2 penalty, 0..1 [0.001]",
                       [&p](double v) { p.set_weight_decay(v); });
  AddParameter<double>(app, "--momentum", "SGD momentum, 0..1 [0]",
                       [&p](double v) { p.set_momentum(v); });
  AddParameter<int>(app, "--batch-size", "Images a step, 1..1024 [64]",
                    [&p](int v) { p.set_batch_size(v); });
  AddParameter<uint64_t>(app, "--seed", "Of order, augmentation and fc [drawn]",
                         [&p](uint64_t v) { p.set_seed(v); });
  app.add_flag_callback(
      "--from-scratch", [&p] { p.set_from_scratch(true); },
      "Train without pretrained weights");
}

int Main(int argc, char** argv) {
  Connection connection;
  CLI::App app("Fine-tunes ResNet18 on your photos and classifies with it.",
               "finetune");
  app.require_subcommand(1);
  app.fallthrough();  // Options of the program may follow the command.
  app.footer(kFooter);
  app.set_version_flag("--version", FINETUNE_VERSION);
  app.add_option("--server", connection.server, "HOST:PORT of finetuned")
      ->envname("FINETUNE_SERVER")
      ->capture_default_str();
  app.add_option("--timeout", connection.timeout_seconds,
                 "Seconds to wait for an answer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_flag("--json", connection.json, "Print JSON, an object a line");

  v1::StartFineTuneRequest start_request;
  bool watch = false;
  auto* start = app.add_subcommand("start", "Start a fine-tuning job");
  start
      ->add_option("DATASET", *start_request.mutable_dataset(),
                   "Folder below the server's data root that holds "
                   "train/<class>/ and test/<class>/ (or val/)")
      ->required();
  start->add_option("--name", *start_request.mutable_model_name(),
                    "Model to publish, of a-z, 0-9 and '-' [the folder's]");
  AddHyperParameters(*start, *start_request.mutable_hyper_parameters());
  start->add_flag("--watch", watch, "Follow the job to its end");

  std::string job_id;
  auto* progress = app.add_subcommand("progress", "Show how far a job is");
  progress->add_option("JOB", job_id, "Its id")->required();
  progress->add_flag("--watch", watch, "Follow the job to its end");

  std::vector<std::string> images;
  std::string model;
  ClassifyOptions classify_options;
  auto* classify = app.add_subcommand("classify", "Classify images");
  classify->add_option("IMAGE", images, "JPEG, PNG, WebP or BMP files")
      ->required()
      ->check(CLI::Validator(CLI::ExistingDirectory).operator!());
  classify->add_option("--model", model,
                       "NAME[@VERSION] [the model promoted last]");
  classify
      ->add_option("--top-k", classify_options.top_k,
                   "Labels to print for each image; 0: all")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();

  try {
    app.parse(argc, argv);
    if (!model.empty()) {
      auto ref = ParseModelRef(model);
      if (!ref.ok()) {
        throw CLI::ValidationError("--model",
                                   std::string(ref.status().message()));
      }
      classify_options.model = *std::move(ref);
    }
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kDone : kUsage;
  }

  if (watch) BlockInterrupt();
  connection.channel = Connect(connection.server);
  const WatchOptions watching{.terminal_width = TerminalWidth()};
  if (*start) {
    return StartJob(connection, start_request, watch, watching, std::cout,
                    std::cerr);
  }
  if (*progress && watch) {
    return WatchJob(connection, job_id, watching, std::cout, std::cerr);
  }
  if (*progress) return ShowJob(connection, job_id, std::cout, std::cerr);
  return ClassifyFiles(connection, images, classify_options, std::cout,
                       std::cerr);
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) { return finetune::Main(argc, argv); }
