// finetune: the command line of the service.

#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/classify.h"
#include "client/connection.h"
#include "client/datasets.h"
#include "client/download.h"
#include "client/flags.h"
#include "client/health.h"
#include "client/jobs.h"
#include "client/models.h"
#include "client/training.h"
#include "client/upload.h"
#include "client/watch.h"
#include "common/utf8.h"

namespace finetune {
namespace {

constexpr char kFooter[] =
    "Every command takes --server, --timeout, --json, --tls... and\n"
    "--token-file; see finetune --help.\n"
    "\n"
    "Exit codes: 0 done; 1 the job failed or was cancelled, an image could "
    "not\n"
    "be classified, the server refused or does not serve, or the output "
    "could\n"
    "not be written; 2 usage;\n"
    "3 server unreachable; 130 Ctrl-C while watching (the job goes on).";
constexpr char kWatchHelp[] =
    "Follow the job to its end; Ctrl-C stops watching, not the job";

// What the command line says.
struct Arguments {
  Connection connection;
  v1::StartFineTuneRequest start;
  std::string job_id;
  ListOptions list;
  bool watch = false;
  std::vector<std::string> images;
  ClassifyOptions classify;
  std::string upload;
  UploadOptions uploading;
  std::string dataset_id;
  std::string model_name;
  v1::ModelRef model;
  DownloadOptions download;
  std::string service;
};

CLI::App* AddStart(CLI::App& app, Arguments& arguments) {
  auto* start = app.add_subcommand(
      "start", "Start a fine-tuning job; what is not set, the server chooses");
  start
      ->add_option("DATASET", *arguments.start.mutable_dataset(),
                   "Folder below the server's data root that holds "
                   "train/<class>/ and test/<class>/ (or val/), id of an "
                   "uploaded data set, or a local folder to upload")
      ->required();
  AddStartFlags(*start, arguments.start);
  start->add_flag("--watch", arguments.watch, kWatchHelp)
      ->excludes(start->get_option("--validate-only"));
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

CLI::App* AddWatch(CLI::App& app, Arguments& arguments) {
  auto* watch = app.add_subcommand("watch", "The same as progress JOB --watch");
  watch->add_option("JOB", arguments.job_id, "Its id, as start printed it")
      ->required();
  watch->preparse_callback([&arguments](size_t) { arguments.watch = true; });
  return watch;
}

CLI::App* AddList(CLI::App& app, Arguments& arguments) {
  auto* list = app.add_subcommand("list", "List jobs, the newest first");
  AddStateFlag(*list, arguments.list.states);
  list->add_option("--limit", arguments.list.limit, "Jobs to list")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  return list;
}

CLI::App* AddCancel(CLI::App& app, Arguments& arguments) {
  auto* cancel = app.add_subcommand(
      "cancel", "End a job; it keeps a checkpoint to resume from");
  cancel->add_option("JOB", arguments.job_id, "Its id")->required();
  return cancel;
}

CLI::App* AddResume(CLI::App& app, Arguments& arguments) {
  auto* resume = app.add_subcommand(
      "resume", "Queue a failed or cancelled job again, from its checkpoint");
  resume->add_option("JOB", arguments.job_id, "Its id")->required();
  resume->add_flag("--watch", arguments.watch, kWatchHelp);
  return resume;
}

void AddClassify(CLI::App& app, Arguments& arguments) {
  auto* classify = app.add_subcommand(
      "classify", "Classify images: labels with probabilities, 0..1");
  classify
      ->add_option("PATH", arguments.images,
                   "JPEG, PNG, WebP or BMP files, and folders of them")
      ->required();
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
      ->add_option_function<int>(
          "--top-k", [&arguments](int k) { arguments.classify.top_k = k; },
          "Labels to print for each image; 0: all [5; 1 in a table]")
      ->check(CLI::Range(0, 1000));
  classify
      ->add_option("--window", arguments.classify.window,
                   "Images on their way to the server at once")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
}

CLI::App* AddUpload(CLI::App& app, Arguments& arguments) {
  auto* upload = app.add_subcommand(
      "upload", "Send a data set to the server, once; prints its id");
  upload
      ->add_option("PATH", arguments.upload,
                   "Folder that holds train/<class>/ and test/<class>/ (or "
                   "val/), or a tar, tar.gz or zip of one")
      ->required();
  upload->add_option("--name", arguments.uploading.name,
                     "For people, 1..255 bytes [the name of PATH]");
  return upload;
}

CLI::App* AddDatasets(CLI::App& app) {
  return app.add_subcommand("datasets",
                            "List the uploaded data sets, newest first");
}

CLI::App* AddDeleteDataset(CLI::App& datasets, Arguments& arguments) {
  auto* remove = datasets.add_subcommand("delete", "Delete one of them");
  remove->add_option("ID", arguments.dataset_id, "As the list shows it")
      ->required();
  return remove;
}

// NAME[@VERSION], or with the version where it `must_be_exact`.
CLI::Option* AddModel(CLI::App& command, v1::ModelRef& model,
                      bool must_be_exact) {
  return command.add_option_function<std::string>(
      "MODEL",
      [&model, must_be_exact](const std::string& text) {
        auto ref = ParseModelRef(text);
        if (!ref.ok()) {
          throw CLI::ValidationError("MODEL",
                                     std::string(ref.status().message()));
        }
        if (must_be_exact && ref->version() == 0) {
          throw CLI::ValidationError("MODEL", "must be NAME@VERSION");
        }
        model = *std::move(ref);
      },
      must_be_exact ? "NAME@VERSION"
                    : "NAME[@VERSION]; without it what is promoted");
}

CLI::App* AddModels(CLI::App& app, Arguments& arguments) {
  auto* models =
      app.add_subcommand("models", "List the published models, newest first");
  models->add_option("NAME", arguments.model_name, "Only this one's versions");
  return models;
}

CLI::App* AddDeleteModel(CLI::App& models, Arguments& arguments) {
  auto* remove =
      models.add_subcommand("delete", "Delete a version that is not promoted");
  AddModel(*remove, arguments.model, /*must_be_exact=*/true)->required();
  return remove;
}

CLI::App* AddPromote(CLI::App& app, Arguments& arguments) {
  auto* promote = app.add_subcommand(
      "promote", "Serve a version under its name and by default");
  AddModel(*promote, arguments.model, /*must_be_exact=*/true)->required();
  return promote;
}

CLI::App* AddDownload(CLI::App& app, Arguments& arguments) {
  auto* download =
      app.add_subcommand("download", "Write a published model to a file");
  AddModel(*download, arguments.model, /*must_be_exact=*/false)->required();
  download->add_option("-o,--output", arguments.download.file,
                       "FILE [NAME-VERSION.safetensors or .onnx]");
  download
      ->add_option("--format", arguments.download.format,
                   "safetensors (torchvision's names) or onnx (opset 17)")
      ->transform(
          CLI::CheckedTransformer(std::map<std::string, v1::ModelFormat>{
              {"safetensors", v1::MODEL_FORMAT_SAFETENSORS},
              {"onnx", v1::MODEL_FORMAT_ONNX}}))
      ->option_text("FORMAT [safetensors]");
  download->add_flag("--force", arguments.download.force,
                     "Replace a file that is there");
  return download;
}

CLI::App* AddHealth(CLI::App& app, Arguments& arguments) {
  auto* health = app.add_subcommand(
      "health", "Say whether the server serves; needs no token");
  health->add_option("--service", arguments.service,
                     "Full name, as finetune.v1.InferenceService [all of it]");
  return health;
}

// As CLI11 says it, but arguments as ToPrintable gives them.
std::string UsageError(const CLI::App* app, const CLI::Error& error) {
  return CLI::FailureMessage::simple(
      app, CLI::Error(error.get_name(), ToPrintable(error.what()),
                      error.get_exit_code()));
}

ExitCode Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Fine-tunes ResNet18 on your photos and classifies with it.",
               "finetune");
  app.require_subcommand(1);
  app.fallthrough();  // Options of the program may follow the command.
  app.footer(kFooter);
  app.failure_message(UsageError);
  app.set_version_flag("--version", FINETUNE_VERSION);
  AddConnectionFlags(app, arguments.connection);
  const CLI::App* const start = AddStart(app, arguments);
  const CLI::App* const progress = AddProgress(app, arguments);
  const CLI::App* const watch = AddWatch(app, arguments);
  const CLI::App* const list = AddList(app, arguments);
  const CLI::App* const cancel = AddCancel(app, arguments);
  const CLI::App* const resume = AddResume(app, arguments);
  AddClassify(app, arguments);
  const CLI::App* const upload = AddUpload(app, arguments);
  CLI::App* const datasets = AddDatasets(app);
  const CLI::App* const remove = AddDeleteDataset(*datasets, arguments);
  CLI::App* const models = AddModels(app, arguments);
  const CLI::App* const delete_model = AddDeleteModel(*models, arguments);
  const CLI::App* const promote = AddPromote(app, arguments);
  const CLI::App* const download = AddDownload(app, arguments);
  const CLI::App* const health = AddHealth(app, arguments);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kDone : kUsage;
  }

  if (arguments.watch) BlockInterrupt();
  Connection& connection = arguments.connection;
  if (health->parsed()) {
    // A probe must not fail for want of a token that it does not need.
    connection.access.token_file.clear();
    connection.access.token.clear();
  }
  if (const absl::Status status = Connect(connection); !status.ok()) {
    PrintError(connection, status, std::cerr);
    return kUsage;
  }
  const WatchOptions watching{.terminal_width = TerminalWidth()};
  const std::string& job_id = arguments.job_id;
  if (start->parsed()) {
    return StartJob(connection, arguments.start, arguments.watch, watching,
                    std::cout, std::cerr);
  }
  if (watch->parsed() || (progress->parsed() && arguments.watch)) {
    return WatchJob(connection, job_id, watching, std::cout, std::cerr);
  }
  if (progress->parsed()) {
    return ShowJob(connection, job_id, std::cout, std::cerr);
  }
  if (list->parsed()) {
    return ListJobs(connection, arguments.list, std::cout, std::cerr);
  }
  if (cancel->parsed()) {
    return CancelJob(connection, job_id, std::cout, std::cerr);
  }
  if (resume->parsed()) {
    return ResumeJob(connection, job_id, arguments.watch, watching, std::cout,
                     std::cerr);
  }
  if (upload->parsed()) {
    arguments.uploading.terminal_width = watching.terminal_width;
    return UploadDataset(connection, arguments.upload, arguments.uploading,
                         std::cout, std::cerr);
  }
  if (remove->parsed()) {
    return DeleteDataset(connection, arguments.dataset_id, std::cout,
                         std::cerr);
  }
  if (datasets->parsed()) {
    return ListDatasets(connection, std::cout, std::cerr);
  }
  if (delete_model->parsed()) {
    return DeleteModel(connection, arguments.model, std::cout, std::cerr);
  }
  if (models->parsed()) {
    return ListModels(connection, arguments.model_name, std::cout, std::cerr);
  }
  if (promote->parsed()) {
    return PromoteModel(connection, arguments.model, std::cout, std::cerr);
  }
  if (download->parsed()) {
    arguments.download.terminal_width = TerminalWidth(STDERR_FILENO);
    return DownloadModel(connection, arguments.model, arguments.download,
                         std::cout, std::cerr);
  }
  if (health->parsed()) {
    return CheckHealth(connection, arguments.service, std::cout, std::cerr);
  }
  arguments.classify.terminal_width = TerminalWidth(STDERR_FILENO);
  arguments.classify.out_is_terminal = watching.terminal_width > 0;
  return ClassifyPaths(connection, arguments.images, arguments.classify,
                       std::cout, std::cerr);
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) {
  const finetune::ExitCode code = finetune::Main(argc, argv);
  return finetune::FinishOutput(code, std::cout, std::cerr);
}
