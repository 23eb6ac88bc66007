// All methods of a server, as it describes itself, and calls to any of them:
// for tests that must not forget one.

#ifndef SERVER_SERVICE_TESTING_METHODS_H_
#define SERVER_SERVICE_TESTING_METHODS_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/grpc_status.h"
#include "common/token.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "grpc/reflection/v1alpha/reflection.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "server/service/authorizer.h"

namespace finetune::testing {

// Calls `method`, "/package.Service/Method" of any kind, with one message of
// these bytes. `token` goes along unless it is empty; `answer`, where not null,
// takes the first message that comes back.
inline absl::Status CallAny(const std::shared_ptr<grpc::Channel>& channel,
                            const std::string& method, const std::string& token,
                            const std::string& message = "",
                            std::string* answer = nullptr) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::seconds(30));
  if (!token.empty()) context.AddMetadata(kTokenHeader, kTokenScheme + token);
  grpc::CompletionQueue queue;
  const auto wait = [&queue] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  const auto call =
      grpc::GenericStub(channel).PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  wait();
  const grpc::Slice slice(message);
  call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
  wait();
  call->WritesDone(nullptr);
  wait();
  grpc::ByteBuffer received;
  call->Read(&received, nullptr);
  if (grpc::Slice first;
      wait() && received.DumpToSingleSlice(&first).ok() && answer != nullptr) {
    answer->assign(reinterpret_cast<const char*>(first.begin()), first.size());
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  wait();
  return FromGrpcStatus(status);
}

// The full names of all services that the server lists by reflection.
inline std::vector<std::string> ServicesOf(
    const std::shared_ptr<grpc::Channel>& channel) {
  grpc::reflection::v1alpha::ServerReflectionRequest request;
  request.set_list_services("*");
  std::string answer;
  const absl::Status listed = CallAny(
      channel, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
      "", request.SerializeAsString(), &answer);
  grpc::reflection::v1alpha::ServerReflectionResponse response;
  if (!listed.ok() || !response.ParseFromString(answer)) return {};
  std::vector<std::string> names;
  for (const auto& service : response.list_services_response().service()) {
    names.push_back(service.name());
  }
  return names;
}

// "/package.Service/Method" of all methods of a service in our contract.
inline std::vector<std::string> MethodsOf(const std::string& service) {
  std::vector<std::string> methods;
  const auto* descriptor =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
          service);
  for (int i = 0; descriptor && i < descriptor->method_count(); ++i) {
    methods.push_back("/" + service + "/" + descriptor->method(i)->name());
  }
  return methods;
}

// Which role each service asks for.
inline const std::map<std::string, Role> kRoles = {
    {"finetune.v1.DatasetService", Role::kAdmin},
    {"finetune.v1.InferenceService", Role::kClassify},
    {"finetune.v1.ModelService", Role::kAdmin},
    {"finetune.v1.TrainingService", Role::kAdmin},
    {"grpc.health.v1.Health", Role::kNone},  // Probes carry no token.
    {"grpc.reflection.v1alpha.ServerReflection", Role::kNone},  // Public.
    {"inference.GRPCInferenceService", Role::kClassify},
};

// Which role a method asks for, where it is not its service's.
inline const std::map<std::string, Role> kMethodRoles = {
    {"/finetune.v1.ModelService/GetModel", Role::kClassify},
    {"/finetune.v1.ModelService/ListModels", Role::kClassify},
    {"/inference.GRPCInferenceService/ServerLive", Role::kNone},  // Probes.
    {"/inference.GRPCInferenceService/ServerReady", Role::kNone},
    {"/inference.GRPCInferenceService/ServerMetadata", Role::kNone},
};

inline Role RoleOf(const std::string& service, const std::string& method) {
  const auto it = kMethodRoles.find(method);
  return it == kMethodRoles.end() ? kRoles.at(service) : it->second;
}

// Calls every method of the server that asks for `least` or more, and expects
// `code`. Fails where a service is not in kRoles: whoever
// adds one decides there who may call it. A method without a handler may also
// be UNIMPLEMENTED: it does no harm.
inline void ExpectOfEveryMethod(const std::shared_ptr<grpc::Channel>& channel,
                                Role least, const std::string& token,
                                absl::StatusCode code) {
  for (const std::string& service : ServicesOf(channel)) {
    ASSERT_TRUE(kRoles.contains(service)) << "who may call " << service << "?";
    for (const std::string& method : MethodsOf(service)) {
      if (RoleOf(service, method) < least) continue;
      EXPECT_THAT(CallAny(channel, method, token).code(),
                  ::testing::AnyOf(code, absl::StatusCode::kUnimplemented))
          << method;
    }
  }
}

}  // namespace finetune::testing

#endif  // SERVER_SERVICE_TESTING_METHODS_H_
