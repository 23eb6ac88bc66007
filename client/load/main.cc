// finetune-load: what a server that classifies photos can do, measured.

#include <sys/resource.h>

#include <cmath>
#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <utility>

#include "CLI/CLI.hpp"
#include "client/classify.h"
#include "client/load/load.h"
#include "client/load/requests.h"
#include "client/load/server_times.h"
#include "common/flag_names.h"
#include "nlohmann/json.hpp"

namespace finetune {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxMessageBytes = 64 << 20;

struct Arguments {
  std::string server = "127.0.0.1:50051";
  std::string photos;
  Protocol protocol = Protocol::kClassify;
  v1::ModelRef model;
  int top_k = 5;
  double seconds = 10, warmup = 2, deadline_ms = 60'000;
  LoadOptions load;
};

void AddWhat(CLI::App& app, Arguments& arguments) {
  static const std::map<std::string, Protocol> kProtocols = {
      {"classify", Protocol::kClassify},
      {"infer", Protocol::kInfer},
      {"peer", Protocol::kPeer}};
  app.add_option("--server", arguments.server, "HOST:PORT, without TLS")
      ->capture_default_str();
  app.add_option("--photos", arguments.photos,
                 "Folder of photos to send in turn, the first 256 in it")
      ->required();
  app.add_option("--protocol", arguments.protocol,
                 "classify (finetuned's own), infer (Open Inference Protocol) "
                 "or peer (a server of scripts/bench) [classify]")
      ->transform(CLI::CheckedTransformer(kProtocols).description(""));
  app.add_option_function<std::string>(
      "--model",
      [&arguments](const std::string& text) {
        const auto ref = ParseModelRef(text);
        if (!ref.ok()) {
          throw CLI::ValidationError("--model",
                                     std::string(ref.status().message()));
        }
        arguments.model = *ref;
      },
      "NAME[@VERSION] [the model promoted last]");
  app.add_option("--top-k", arguments.top_k, "Labels to ask for; 0: all")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
}

void AddHow(CLI::App& app, Arguments& arguments) {
  LoadOptions& load = arguments.load;
  auto* concurrency = app.add_option("--concurrency", load.concurrency,
                                     "Callers that each wait for their answer")
                          ->check(CLI::Range(1, 10'000))
                          ->capture_default_str();
  app.add_option("--rate", load.rate,
                 "Photos a second, sent whether or not answers come, instead")
      ->check(CLI::Range(0.01, 1e6))
      ->excludes(concurrency);
  app.add_flag("--poisson,!--fixed", load.poisson,
               "Arrivals at random, or evenly apart [--poisson]");
  app.add_option("--seed", load.seed, "Of the arrivals")->capture_default_str();
  app.add_option("--deadline", arguments.deadline_ms,
                 "Milliseconds a call may take")
      ->check(CLI::Range(0.1, 3.6e6))
      ->capture_default_str();
  app.add_option("--seconds", arguments.seconds, "To measure")
      ->check(CLI::Range(0.1, 86'400.0))
      ->capture_default_str();
  app.add_option("--warmup", arguments.warmup, "Seconds before that")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
}

// Processor seconds that this process has used.
double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         1e-6 * static_cast<double>(usage.ru_utime.tv_usec +
                                    usage.ru_stime.tv_usec);
}

// Two decimals: microseconds of a millisecond are noise.
double Round(double value) { return std::round(100 * value) / 100; }

Json ToJson(const Arguments& arguments, const LoadReport& report) {
  Json line;
  if (arguments.load.rate > 0) {
    line["rate"] = arguments.load.rate;
  } else {
    line["concurrency"] = arguments.load.concurrency;
  }
  line["n"] = report.answered.size();
  line["images_per_second"] = Round(report.answered_per_second);
  line["goodput"] = Round(report.in_time_per_second);
  for (const auto& [name, fraction] :
       {std::pair("p50_ms", 0.5), std::pair("p90_ms", 0.9),
        std::pair("p99_ms", 0.99), std::pair("max_ms", 1.0)}) {
    line[name] = Round(Percentile(report.answered, fraction));
  }
  line["errors"] = Json::object();
  for (const auto& [code, count] : report.errors) {
    line["errors"][absl::StatusCodeToString(code)] = count;
  }
  if (report.unsent > 0) line["unsent"] = report.unsent;
  if (!report.refused.empty()) {
    line["refused_p99_ms"] = Round(Percentile(report.refused, 0.99));
  }
  return line;
}

void AddServerTimes(const ServerTimes& times, Json& line) {
  if (times.count() == 0) return;
  line["server_ms"] = {{"queue", Round(times.MeanQueue())},
                       {"preprocess", Round(times.MeanPreprocess())},
                       {"compute", Round(times.MeanCompute())},
                       {"batch_size", Round(times.MeanBatchSize())}};
  line["overhead_p50_ms"] = Round(times.MedianOverhead());
}

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app(
      "Sends photos to a server that classifies them, and prints one line of "
      "JSON: how many a second and how long they took.",
      "finetune-load");
  AddWhat(app, arguments);
  AddHow(app, arguments);
  SpellFlagsAs(app, argc, argv);
  CLI11_PARSE(app, argc, argv);

  const auto photos = ReadPhotos(arguments.photos);
  if (!photos.ok()) {
    std::cerr << "finetune-load: " << photos.status().message() << "\n";
    return EXIT_FAILURE;
  }
  LoadOptions& load = arguments.load;
  load.method = MethodOf(arguments.protocol);
  for (const std::string& photo : *photos) {
    load.requests.push_back(MakeRequest(arguments.protocol, photo,
                                        arguments.model, arguments.top_k));
  }
  load.warmup = absl::Seconds(arguments.warmup);
  load.duration = absl::Seconds(arguments.seconds);
  load.deadline = absl::Milliseconds(arguments.deadline_ms);
  ServerTimes times;
  if (arguments.protocol == Protocol::kClassify) {
    load.on_answer = [&times](const LoadAnswer& answer) {
      if (answer.counts && answer.status.ok()) {
        times.Add(answer.bytes, answer.took);
      }
    };
  }
  grpc::ChannelArguments channel;
  channel.SetMaxReceiveMessageSize(kMaxMessageBytes);
  channel.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  const LoadReport report = RunLoad(
      grpc::CreateCustomChannel(arguments.server,
                                grpc::InsecureChannelCredentials(), channel),
      load);

  Json line = ToJson(arguments, report);
  AddServerTimes(times, line);
  line["client_cores"] =
      Round(CpuSeconds() / (arguments.seconds + arguments.warmup));
  std::cout << line.dump() << std::endl;
  return report.answered.empty() ? EXIT_FAILURE : EXIT_SUCCESS;
}

}  // namespace
}  // namespace finetune

int main(int argc, char** argv) { return finetune::Main(argc, argv); }
