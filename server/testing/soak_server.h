// A finetuned in a process of its own that serves two versions of one model,
// and what each of them says of a few pictures: whatever happens to the server,
// a right answer is one of these.

#ifndef SERVER_TESTING_SOAK_SERVER_H_
#define SERVER_TESTING_SOAK_SERVER_H_

#include <array>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/testing/temp_dir.h"
#include "finetune/v1/inference_service.pb.h"
#include "grpcpp/grpcpp.h"
#include "server/testing/server_process.h"

namespace finetune::testing {

// A ClassifyRequest, encoded, and which of the pictures are in it.
struct SoakRequest {
  grpc::ByteBuffer bytes;
  std::vector<size_t> pictures;
  int64_t version = 0;  // Asked for; 0: the promoted one.
};

// Const methods are thread-safe.
class SoakServer {
 public:
  static constexpr char kModel[] = "soak";  // Versions 1 and 2; 2 is promoted.

  // Starts it and asks for the reference answers. Where that fails the test
  // does, and process().channel() may be null.
  SoakServer();

  ServerProcess& process() { return *process_; }

  // Requests for one picture each, of the promoted version; and for one to
  // five pictures, of each of `versions` (0: the promoted one).
  std::vector<SoakRequest> SmallRequests() const;
  std::vector<SoakRequest> MixedRequests(
      const std::vector<int64_t>& versions) const;

  // Empty if `answer` is what the version that it names said of the request's
  // pictures before, and this may answer the request; else what is wrong.
  std::string FindFault(const SoakRequest& request,
                        const grpc::ByteBuffer& answer) const;

 private:
  using Probabilities = std::map<int, float>;  // By class.

  SoakRequest Make(const std::vector<size_t>& pictures, int64_t version) const;
  Probabilities Ask(size_t picture, int64_t version);
  void AskAll();

  const TempDir dir_;
  std::vector<std::string> pictures_;
  std::unique_ptr<ServerProcess> process_;
  // By picture and version.
  std::map<std::pair<size_t, int64_t>, Probabilities> references_;
};

}  // namespace finetune::testing

#endif  // SERVER_TESTING_SOAK_SERVER_H_
