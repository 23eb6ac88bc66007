#include "client/health.h"

#include <memory>
#include <sstream>
#include <string>

#include "common/testing/status_matchers.h"
#include "finetune/v1/model_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "grpcpp/health_check_service_interface.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;

class HealthTest : public ::testing::Test {
 protected:
  HealthTest() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(),
                             &port);
    builder.RegisterService(&models_);
    server_ = builder.BuildAndStart();
    server_->GetHealthCheckService()->SetServingStatus("pets.Pets", false);
    connection_.server = "127.0.0.1:" + std::to_string(port);
    EXPECT_THAT(Connect(connection_), IsOk());
  }

  v1::ModelService::Service models_;  // A server must have some service.
  std::unique_ptr<grpc::Server> server_;
  Connection connection_;
  std::ostringstream out_, err_;
};

TEST_F(HealthTest, ServerThatServesIsDone) {
  EXPECT_EQ(CheckHealth(connection_, "", out_, err_), kDone);
  EXPECT_EQ(out_.str(), "SERVING\n");
  EXPECT_EQ(err_.str(), "");
}

TEST_F(HealthTest, ServiceThatDoesNotServeIsExitCodeOne) {
  EXPECT_EQ(CheckHealth(connection_, "pets.Pets", out_, err_), kFailed);
  EXPECT_EQ(out_.str(), "NOT_SERVING\n");
  EXPECT_EQ(err_.str(), "");
}

TEST_F(HealthTest, ServerThatDrainsDoesNotServe) {
  server_->GetHealthCheckService()->Shutdown();
  EXPECT_EQ(CheckHealth(connection_, "", out_, err_), kFailed);
  EXPECT_EQ(out_.str(), "NOT_SERVING\n");
}

TEST_F(HealthTest, JsonIsTheResponse) {
  connection_.json = true;
  EXPECT_EQ(CheckHealth(connection_, "", out_, err_), kDone);
  EXPECT_EQ(CheckHealth(connection_, "pets.Pets", out_, err_), kFailed);
  EXPECT_EQ(out_.str(),
            "{\"status\":\"SERVING\"}\n{\"status\":\"NOT_SERVING\"}\n");
}

TEST_F(HealthTest, UnknownServiceIsNamed) {
  EXPECT_EQ(CheckHealth(connection_, "pets.None", out_, err_), kFailed);
  EXPECT_EQ(out_.str(), "");
  EXPECT_THAT(err_.str(), HasSubstr("no health of a service \"pets.None\""));
}

TEST_F(HealthTest, ServerThatHasGoneIsExitCodeThree) {
  server_->Shutdown();
  EXPECT_EQ(CheckHealth(connection_, "", out_, err_), kUnreachable);
  EXPECT_THAT(err_.str(), HasSubstr("no answer from 127.0.0.1:"));
}

}  // namespace
}  // namespace finetune
