#include "client/models.h"

#include <algorithm>
#include <memory>
#include <sstream>
#include <string>

#include "absl/strings/numbers.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;

v1::ModelRef Ref(const std::string& name, int64_t version) {
  v1::ModelRef ref;
  ref.set_name(name);
  ref.set_version(version);
  return ref;
}

// Has versions 1..`versions` of pets, the first one promoted.
class FakeModels final : public v1::ModelService::Service {
 public:
  grpc::Status ListModels(grpc::ServerContext*,
                          const v1::ListModelsRequest* request,
                          v1::ListModelsResponse* response) override {
    int next = versions;
    if (!request->page_token().empty() &&
        !absl::SimpleAtoi(request->page_token(), &next)) {
      return ToGrpcStatus(InvalidFieldError("page_token", "ours"));
    }
    if (!request->name().empty() && request->name() != "pets") next = 0;
    const int end = std::max(next - request->page_size(), 0);
    for (; next > end; --next) {
      v1::Model& model = *response->add_models();
      *model.mutable_ref() = Ref("pets", next);
      model.set_promoted(next == 1);
      model.set_test_accuracy(0.925);
      model.set_job_id("ft-7");
    }
    if (end > 0) response->set_next_page_token(std::to_string(end));
    return grpc::Status::OK;
  }
  grpc::Status PromoteModel(grpc::ServerContext*,
                            const v1::PromoteModelRequest* request,
                            v1::PromoteModelResponse* response) override {
    if (request->model().version() > versions) {
      return ToGrpcStatus(NoSuchResourceError("model", "pets@9"));
    }
    *response->mutable_model()->mutable_ref() = request->model();
    return grpc::Status::OK;
  }
  grpc::Status DeleteModel(grpc::ServerContext*,
                           const v1::DeleteModelRequest* request,
                           v1::DeleteModelResponse*) override {
    if (request->model().version() != 1) return grpc::Status::OK;
    return ToGrpcStatus(PreconditionError("MODEL", "pets@1", "it is promoted"));
  }

  int versions = 2;
};

class ModelsTest : public ::testing::Test {
 protected:
  ModelsTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&models_);
    server_ = builder.BuildAndStart();
    connection_.channel = server_->InProcessChannel({});
  }

  FakeModels models_;
  std::unique_ptr<grpc::Server> server_;
  Connection connection_;
  std::ostringstream out_, err_;
};

TEST_F(ModelsTest, ListMarksWhatIsPromoted) {
  EXPECT_EQ(ListModels(connection_, "", out_, err_), kDone);
  std::istringstream lines(out_.str());
  std::string heading, second, first;
  std::getline(lines, heading);
  std::getline(lines, second);
  std::getline(lines, first);
  EXPECT_THAT(heading, HasSubstr("MODEL   PROMOTED  TEST ACC  CREATED"));
  EXPECT_THAT(second, HasSubstr("pets@2               0.925"));
  EXPECT_THAT(first, HasSubstr("pets@1  yes          0.925"));
  EXPECT_THAT(first, HasSubstr("ft-7"));
}

TEST_F(ModelsTest, ListFollowsAllPages) {
  models_.versions = 250;
  connection_.json = true;
  EXPECT_EQ(ListModels(connection_, "pets", out_, err_), kDone);
  const std::string lines = out_.str();
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 250);
  EXPECT_THAT(lines, HasSubstr("{\"ref\":{\"name\":\"pets\",\"version\":\"1\"},"
                               "\"promoted\":true"));
}

TEST_F(ModelsTest, ListOfNothingSaysSo) {
  EXPECT_EQ(ListModels(connection_, "birds", out_, err_), kDone);
  EXPECT_EQ(out_.str(), "no models\n");
}

TEST_F(ModelsTest, PromoteSaysWhatIsPromoted) {
  EXPECT_EQ(PromoteModel(connection_, Ref("pets", 2), out_, err_), kDone);
  EXPECT_EQ(out_.str(), "pets@2 is promoted\n");
  EXPECT_EQ(PromoteModel(connection_, Ref("pets", 9), out_, err_), kFailed);
  EXPECT_EQ(err_.str(), "finetune: no model \"pets@9\"\n");
}

TEST_F(ModelsTest, DeleteSaysWhatIsGoneOrWhyNot) {
  EXPECT_EQ(DeleteModel(connection_, Ref("pets", 2), out_, err_), kDone);
  EXPECT_EQ(out_.str(), "deleted pets@2\n");
  EXPECT_EQ(DeleteModel(connection_, Ref("pets", 1), out_, err_), kFailed);
  EXPECT_EQ(err_.str(), "finetune: it is promoted\n");
}

}  // namespace
}  // namespace finetune
