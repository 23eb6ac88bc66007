#include "server/testing/bad_clients.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "client/load/load.h"
#include "client/load/requests.h"
#include "finetune/v1/inference_service.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "server/testing/checked_load.h"
#include "server/testing/pictures.h"

namespace finetune::testing {
namespace {

using ::testing::AnyOf;
using ::testing::Each;
using ::testing::IsEmpty;
using ::testing::Key;

constexpr char kClassify[] = "/finetune.v1.InferenceService/Classify";
constexpr char kClassifyStream[] =
    "/finetune.v1.InferenceService/ClassifyStream";
// How long each goes on.
constexpr absl::Duration kSpell = absl::Milliseconds(500);

// Begins a call of `method`, sends as many of `count` messages as the server
// takes, reads nothing, and cancels.
void Stall(SoakServer& server, const char* method,
           const grpc::ByteBuffer& message, int count) {
  grpc::GenericStub stub(server.process().Connect());
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  const auto stream = stub.PrepareCall(&context, method, &queue);
  stream->StartCall(nullptr);
  const auto end = absl::ToChronoTime(absl::Now() + kSpell);
  void* tag = nullptr;
  bool ok = false;
  for (int sent = 0;
       queue.AsyncNext(&tag, &ok, end) == grpc::CompletionQueue::GOT_EVENT;) {
    if (ok && sent++ < count) stream->Write(message, nullptr);
  }
  context.TryCancel();
  grpc::Status status;
  stream->Finish(&status, nullptr);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
}

}  // namespace

void GiveUp(SoakServer& server) {
  CheckedLoad load(server, server.MixedRequests({0, 1, 2}));
  load.Run(server.process().Connect(),
           {.rate = 30, .duration = kSpell, .deadline = absl::Milliseconds(7)});
}

void SendBadImages(SoakServer& server) {
  v1::ClassifyRequest request;
  request.add_images("not an image");
  v1::ClassifyRequest truncated;
  truncated.add_images(Image("landscape_420.jpg").substr(0, 9000));
  const LoadReport report =
      RunLoad(server.process().Connect(),
              {.method = kClassify,
               .requests = {ToBytes(request), ToBytes(truncated)},
               .rate = 30,
               .duration = kSpell});
  // A server that gets too little of the machine refuses.
  EXPECT_THAT(report.errors,
              Each(Key(AnyOf(absl::StatusCode::kInvalidArgument,
                             absl::StatusCode::kResourceExhausted))));
  EXPECT_THAT(report.answered, IsEmpty());
}

void SendNoMessage(SoakServer& server) {
  Stall(server, kClassify, grpc::ByteBuffer(), 0);
}

void LeaveStreamUnread(SoakServer& server) {
  v1::ClassifyStreamRequest request;
  request.set_item_id("unread");
  request.set_image(Image("small_420.jpg"));
  Stall(server, kClassifyStream, ToBytes(request), 200);
}

void FallSilent(SoakServer& server) {
  constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\6\4";
  const std::string& address = server.process().address();
  uint32_t port = 0;
  ASSERT_TRUE(absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port));
  sockaddr_in to{.sin_family = AF_INET,
                 .sin_port = htons(static_cast<uint16_t>(port)),
                 .sin_addr = {htonl(INADDR_LOOPBACK)}};
  std::vector<pollfd> sockets;
  for (size_t length = 1; length < sizeof kPreface; length += 5) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to),
              0);
    EXPECT_EQ(send(fd, kPreface, length, MSG_NOSIGNAL),
              static_cast<ssize_t>(length));
    sockets.push_back({.fd = fd, .events = 0});  // Until the server hangs up.
  }
  poll(sockets.data(), sockets.size(),
       static_cast<int>(absl::ToInt64Milliseconds(kSpell)));
  for (const pollfd& open : sockets) close(open.fd);
}

}  // namespace finetune::testing
