// finetune: the command line of the service.

#include <unistd.h>

#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "client/classify.h"
#include "client/connection.h"
#include "client/datasets.h"
#include "client/flags.h"
#include "client/jobs.h"
#include "client/training.h"
#include "client/upload.h"
#include "client/watch.h"

namespace finetune {
namespace {

constexpr char kFooter[] =
    "Every command takes --server, --timeout, --json, --tls... and\n"
    "--token-file; see finetune --help.\n"
    "\n"
    "Exit codes: 0 done; 1 the job failed or was cancelled, an image could "
    "not\n"
    "be classified, or the server refused; 2 usage; 3 server unreachable;\n"
    "130 Ctrl-C while watching (the job goes on).";
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

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Fine-tunes ResNet18 on your photos and classifies with it.",
               "finetune");
  app.require_subcommand(1);
  app.fallthrough();  // Options of the program may follow the command.
  app.footer(kFooter);
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
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? kDone : kUsage;
  }

  if (arguments.watch) BlockInterrupt();
  Connection& connection = arguments.connection;
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
  arguments.classify.terminal_width = TerminalWidth(STDERR_FILENO);
  arguments.classify.out_is_terminal = watching.terminal_width > 0;
  return ClassifyPaths(connection, arguments.images, arguments.classify,
                       std::cout, std::cerr);
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) { return finetune::Main(argc, argv); }
