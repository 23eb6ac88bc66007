#include "client/flags.h"

#include <map>
#include <string>

#include "absl/time/time.h"
#include "common/proto_time.h"

namespace finetune {
namespace {

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

void AddTlsFlags(CLI::App& app, Access& access) {
  app.add_flag("--tls", access.tls, "Use TLS, trusting the system's issuers")
      ->envname("FINETUNE_TLS");
  app.add_option("--tls-ca", access.ca,
                 "PEM file of the issuers to trust instead; implies --tls")
      ->envname("FINETUNE_TLS_CA");
  app.add_option("--tls-cert", access.certificate,
                 "PEM file of the client's own certificate, for mutual TLS")
      ->envname("FINETUNE_TLS_CERT");
  app.add_option("--tls-key", access.key, "PEM file of its key")
      ->envname("FINETUNE_TLS_KEY");
  app.add_option("--tls-server-name", access.server_name,
                 "Name in the server's certificate [the host]")
      ->envname("FINETUNE_TLS_SERVER_NAME");
  app.add_option("--token-file", access.token_file,
                 "File that holds the token to send, alone or as the server's "
                 "token file does (the first admin one counts), or "
                 "FINETUNE_TOKEN has it; sent over TLS, or to this machine")
      ->envname("FINETUNE_TOKEN_FILE");
  // No flag: other users could see it in the list of processes.
  if (const char* token = std::getenv("FINETUNE_TOKEN")) access.token = token;
}

void AddLabel(const std::string& text, v1::StartFineTuneRequest& request) {
  const size_t equals = text.find('=');
  if (equals == 0 || equals == std::string::npos) {
    throw CLI::ValidationError("--label", "\"" + text + "\" is not KEY=VALUE");
  }
  (*request.mutable_labels())[text.substr(0, equals)] = text.substr(equals + 1);
}

}  // namespace

void AddConnectionFlags(CLI::App& app, Connection& connection) {
  app.add_option("--server", connection.server, "HOST:PORT of finetuned")
      ->envname("FINETUNE_SERVER")
      ->capture_default_str();
  app.add_option("--timeout", connection.timeout_seconds,
                 "Seconds to wait for an answer; a watch has no such limit")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str();
  app.add_flag("--json", connection.json,
               "Print the answer as JSON, one object a line");
  AddTlsFlags(app, connection.access);
}

void AddStartFlags(CLI::App& app, v1::StartFineTuneRequest& request) {
  app.add_option(
      "--name", *request.mutable_model_name(),
      "Model to publish, 1..63 of a-z, 0-9 and '-' [the folder's name]");
  AddHyperParameters(app, *request.mutable_hyper_parameters());
  app.add_option("--request-id", *request.mutable_request_id(),
                 "The same id again gets the same job [drawn]");
  app.add_flag_callback(
      "--validate-only", [&request] { request.set_validate_only(true); },
      "Print what is in the data set and start nothing");
  app.add_flag_callback(
      "--hold-promotion", [&request] { request.set_hold_promotion(true); },
      "Publish the model, but do not serve it by default");
  app.add_option_function<double>(
         "--max-run-duration",
         [&request](double seconds) {
           *request.mutable_max_run_duration() =
               ToProto(absl::Seconds(seconds));
         },
         "Seconds of running after which the job fails [no limit]")
      ->check(CLI::Range(1.0, 365.0 * 86400));
  app.add_option_function<std::vector<std::string>>(
         "--label",
         [&request](const std::vector<std::string>& all) {
           for (const std::string& text : all) AddLabel(text, request);
         },
         "KEY=VALUE: a note of your own; repeatable")
      ->allow_extra_args(false);
}

void AddStateFlag(CLI::App& app, std::vector<v1::JobState>& states) {
  static const std::map<std::string, v1::JobState> kNames = {
      {"queued", v1::JOB_STATE_QUEUED},
      {"validating", v1::JOB_STATE_VALIDATING},
      {"running", v1::JOB_STATE_RUNNING},
      {"cancelling", v1::JOB_STATE_CANCELLING},
      {"succeeded", v1::JOB_STATE_SUCCEEDED},
      {"failed", v1::JOB_STATE_FAILED},
      {"cancelled", v1::JOB_STATE_CANCELLED},
  };
  std::string help = "Only jobs in this state; repeatable:";
  for (const auto& [name, state] : kNames) help += " " + name;
  app.add_option_function<std::vector<std::string>>(
         "--state",
         [&states](const std::vector<std::string>& names) {
           for (const std::string& name : names) {
             states.push_back(kNames.at(name));
           }
         },
         help)
      ->transform(CLI::IsMember(&kNames, CLI::ignore_case).description(""))
      ->allow_extra_args(false);
}

}  // namespace finetune
