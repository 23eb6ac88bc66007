#include "server/server.h"

#include <algorithm>
#include <future>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/address.h"
#include "common/status_macros.h"
#include "google/protobuf/message.h"
#include "grpc/grpc.h"
#include "grpc/health/v1/health.pb.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "server/log.h"
#include "server/model/device.h"
#include "server/rooms.h"
#include "server/service/listening.h"
#include "server/service/reflection_service.h"
#include "spdlog/spdlog.h"

namespace finetune {
namespace {

constexpr size_t kMinMessagesAtOnce = 4;  // Room for so many large requests.
// How long callers have to hear of the end, and how long those at most who are
// still being answered, or have their answer and do not look up.
constexpr absl::Duration kFarewell = absl::Milliseconds(100);
constexpr absl::Duration kLongFarewell = absl::Seconds(1);

ListenOptions ToListenOptions(const ServerOptions& options) {
  return {
      .address = options.address,
      .tls = {.certificate = options.tls_cert,
              .key = options.tls_key,
              .client_ca = options.tls_client_ca},
      .has_tokens = !options.token_file.empty(),
      .insecure_bind = options.insecure_bind,
      .max_message_bytes = options.max_message_bytes,
      .max_receive_bytes = std::max(
          options.max_receive_bytes,
          kMinMessagesAtOnce * static_cast<size_t>(options.max_message_bytes)),
      .max_metadata_bytes = options.max_metadata_bytes,
      .max_concurrent_streams = options.max_concurrent_streams};
}

absl::StatusOr<std::unique_ptr<Authorizer>> OpenAuthorizer(
    const std::filesystem::path& token_file) {
  if (token_file.empty()) return std::make_unique<Authorizer>();
  return Authorizer::Open(token_file);
}

// Whether the addresses may be listened on, and can be: before the state folder
// is opened, whose jobs a failed start must not touch.
absl::Status CheckAddresses(const ServerOptions& options) {
  RETURN_IF_ERROR(CheckCanBind(options.address));
  const std::string& metrics = options.metrics_address;
  if (metrics.empty()) return absl::OkStatus();
  if (!options.insecure_bind && !IsLoopbackAddress(metrics)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "--metrics_address ", metrics,
        " can be reached from other machines, and has neither TLS nor "
        "tokens: use a loopback address, or say --insecure_bind where a "
        "firewall guards the port"));
  }
  if (metrics == options.address && !absl::EndsWith(metrics, ":0")) {
    return absl::FailedPreconditionError(
        absl::StrCat("--address and --metrics_address are both ", metrics));
  }
  return CheckCanBind(metrics);
}

// As --device says; "auto" takes the CPU where the GPU cannot be used, and says
// why.
absl::StatusOr<std::string> ChooseDevice(const std::string& name) {
  ASSIGN_OR_RETURN(std::string device, ResolveDevice(name));
  const absl::Status usable = CheckDevice(device);
  if (usable.ok()) return device;
  if (name != "auto") return usable;
  spdlog::warn("computing on the CPU: {}", std::string(usable.message()));
  return "cpu";
}

// Whether --log_requests, `which`, wants a line for the call.
bool WantsLine(const std::string& which, const CallRecord& call) {
  return which == "all" || (which == "errors" && !call.status.ok());
}

}  // namespace

absl::Status ServerRooms::Listen(const ServerOptions& options,
                                 grpc::ServerBuilder& builder,
                                 const int& port) {
  grpc::EnableDefaultHealthCheckService(true);
  // Links health.proto in, for reflection to describe.
  google::protobuf::LinkMessageReflection<
      grpc::health::v1::HealthCheckRequest>();
  if (!options.metrics_address.empty()) {
    ASSIGN_OR_RETURN(metrics_address, metrics.Expose(options.metrics_address));
  }
  calls.Attach(builder);
  builder.RegisterService(&training_service);
  builder.RegisterService(&dataset_service);
  builder.RegisterService(&inference_service);
  builder.RegisterService(&model_service);
  builder.RegisterService(&open_inference_service);
  AddReflection(builder);
  grpc_server = builder.BuildAndStart();
  if (grpc_server == nullptr || port == 0) {
    // Another process came first after all.
    RETURN_IF_ERROR(CheckCanBind(options.address));
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.address));
  }
  const size_t host = options.address.rfind(':');
  address = absl::StartsWith(options.address, "unix")
                ? options.address
                : absl::StrCat(options.address.substr(0, host), ":", port);
  SetServing(/*inference=*/false);
  UpdateHealth();
  return absl::OkStatus();
}

void ServerRooms::UpdateHealth() {
  absl::Status ready;
  if (const auto model = state->models().Resolve({}); model.ok()) {
    ready = models.Load(*model).status();
  } else {
    ready = model.status();
  }
  SetServing(ready.ok());
}

void ServerRooms::SetServing(bool inference) {
  can_classify = inference;
  auto* const health = grpc_server->GetHealthCheckService();
  for (const std::string& service : ServiceNames()) {
    health->SetServingStatus(service, true);
  }
  health->SetServingStatus(v1::InferenceService::service_full_name(),
                           inference);
}

void ServerRooms::Fail(const std::string& message) {
  if (failed.exchange(true)) return;
  spdlog::critical("cannot go on: {}", message);
  // While the first model is loaded there is no server yet.
  if (grpc_server != nullptr) grpc_server->GetHealthCheckService()->Shutdown();
  on_fatal();
}

void ServerRooms::EndCall(const CallRecord& call) {
  metrics.CountCall(call.method, CodeName(call.status.error_code()),
                    call.elapsed);
  if (!WantsLine(log_requests, call)) return;
  LogEvent(call.IsBackground() ? spdlog::level::debug : spdlog::level::info,
           ToLogFields(call));
}

void ServerRooms::Drain() {
  is_closing = true;
  // From here on SetServing changes nothing.
  grpc_server->GetHealthCheckService()->Shutdown();
  const absl::Time end = absl::Now() + drain_timeout;
  const std::jthread trainers([this] { scheduler.Shutdown(); });
  state->jobs().EndWatches();
  inference_service.EndStreams();
  const std::jthread images([this, end] {
    models.Shutdown();
    batcher.Shutdown(end);
  });
  // Those who watch health or call again at once hear of the end from us: a
  // call that comes while gRPC closes may be cut off without a reason.
  absl::SleepFor(kFarewell);
  calls.AwaitIdle(std::min(end - absl::Now(), kLongFarewell));
  // It takes no more connections, and waits for those it has, with a deadline
  // later than ours, which says what it cuts off.
  const auto closed = std::async(std::launch::async, [this, end] {
    grpc_server->Shutdown(absl::ToChronoTime(end + kLongFarewell));
  });
  if (calls.AwaitIdle(end - absl::Now())) {
    closed.wait_for(absl::ToChronoMilliseconds(kLongFarewell));
  } else {
    spdlog::warn("{} calls were cut off after --drain_timeout",
                 calls.in_flight());
  }
  // Those who watch health, or do not look up, would stay on.
  grpc_server_cancel_all_calls(grpc_server->c_server());
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    const ServerOptions& options, std::function<void()> on_fatal) {
  ASSIGN_OR_RETURN(std::string device, ChooseDevice(options.device));
  ASSIGN_OR_RETURN(auto authorizer, OpenAuthorizer(options.token_file));
  grpc::ServerBuilder builder;
  int port = 0;
  RETURN_IF_ERROR(ConfigureListening(ToListenOptions(options), builder, &port));
  RETURN_IF_ERROR(CheckAddresses(options));
  ASSIGN_OR_RETURN(
      auto state,
      StateFolder::Open(std::filesystem::absolute(options.state_dir),
                        {.max_bytes = options.max_state_bytes,
                         .max_upload_bytes = options.max_upload_bytes}));
  ASSIGN_OR_RETURN(auto activity, ServingActivity::Create());
  auto rooms = std::make_unique<ServerRooms>(
      options, std::move(device), std::move(state), std::move(authorizer),
      std::move(activity), std::move(on_fatal));
  RETURN_IF_ERROR(rooms->Listen(options, builder, port));
  rooms->scheduler.Start();
  spdlog::info("serving on {}, device {}, state in {}", rooms->address,
               DeviceText(rooms->device), options.state_dir.native());
  if (!rooms->metrics_address.empty()) {
    spdlog::info("metrics on http://{}/metrics", rooms->metrics_address);
  }
  return std::unique_ptr<Server>(new Server(std::move(rooms)));
}

Server::Server(std::unique_ptr<ServerRooms> rooms) : rooms_(std::move(rooms)) {}

Server::~Server() { Shutdown(); }

const std::string& Server::address() const { return rooms_->address; }

const std::string& Server::metrics_address() const {
  return rooms_->metrics_address;
}

void Server::Shutdown() {
  if (!drained_) rooms_->Drain();
  drained_ = true;
}

}  // namespace finetune
