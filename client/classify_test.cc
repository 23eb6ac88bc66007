#include "client/classify.h"

#include <algorithm>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/image_list.h"
#include "common/grpc_status.h"
#include "common/rpc_status.h"
#include "common/testing/status_matchers.h"
#include "common/testing/temp_dir.h"
#include "finetune/v1/inference_service.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace finetune {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::TempDir;

using Stream = grpc::ServerReaderWriter<v1::ClassifyStreamResponse,
                                        v1::ClassifyStreamRequest>;

// Answers as a test tells it to: an image's content is its label.
class FakeInference final : public v1::InferenceService::Service {
 public:
  grpc::Status ClassifyStream(grpc::ServerContext* context,
                              Stream* stream) override {
    ++streams;
    std::vector<v1::ClassifyStreamResponse> held;
    v1::ClassifyStreamRequest request;
    int here = 0;  // Answers of this stream.
    while (stream->Read(&request)) {
      last = request;
      if (silent) {
        while (!context->IsCancelled()) std::this_thread::yield();
        return grpc::Status::CANCELLED;
      }
      if (here == break_after) {
        break_after = -1;
        return {grpc::StatusCode::UNAVAILABLE, "going away"};
      }
      held.push_back(Answer(request));
      max_held = std::max(max_held, held.size());
      if (held.size() < hold) continue;
      Send(held, stream);
      ++here;
    }
    Send(held, stream);
    return end;
  }

  // The answers come in the wrong order until so many wait.
  size_t hold = 1;
  int break_after = -1;  // Answers; once.
  bool silent = false;
  grpc::Status end;
  absl::Status error = absl::InvalidArgumentError("not an image");
  std::string wrong_id;  // Of every answer, unless empty.
  size_t max_held = 0;
  int streams = 0;
  int answers = 0;
  v1::ClassifyStreamRequest last;

 private:
  v1::ClassifyStreamResponse Answer(const v1::ClassifyStreamRequest& request) {
    ++answers;
    v1::ClassifyStreamResponse answer;
    answer.set_item_id(wrong_id.empty() ? request.item_id() : wrong_id);
    if (request.image() == "noise") {
      *answer.mutable_result()->mutable_error() = ToRpcStatus(error);
      return answer;
    }
    answer.mutable_model()->set_name("insects");
    answer.mutable_model()->set_version(2);
    auto* const score = answer.mutable_result()->add_scores();
    score->set_label(request.image().substr(0, 10));
    score->set_probability(0.75);
    return answer;
  }
  static void Send(std::vector<v1::ClassifyStreamResponse>& held,
                   Stream* stream) {
    while (!held.empty()) {
      stream->Write(held.back());
      held.pop_back();
    }
  }
};

class ClassifyTest : public ::testing::Test {
 protected:
  ClassifyTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&inference_);
    builder.SetMaxReceiveMessageSize(64 << 20);
    server_ = builder.BuildAndStart();
    connection_.channel = server_->InProcessChannel({});
  }

  ExitCode Classify(const std::vector<std::string>& paths) {
    return ClassifyPaths(connection_, paths, options_, out_, err_);
  }
  // So many files, named and labelled by their numbers.
  std::vector<std::string> WriteFiles(int count) {
    std::vector<std::string> files;
    for (int i = 0; i < count; ++i) {
      files.push_back(
          dir_.Write(absl::StrCat(i, ".jpg"), absl::StrCat("n", i)));
    }
    return files;
  }
  // The second word of each line of the table, without the header.
  std::vector<std::string> Labels() {
    std::istringstream lines(out_.str());
    std::vector<std::string> labels;
    std::string line;
    std::getline(lines, line);
    while (std::getline(lines, line)) {
      labels.push_back(std::vector<std::string>(
          absl::StrSplit(line, ' ', absl::SkipEmpty()))[1]);
    }
    return labels;
  }
  static std::vector<std::string> NumbersUpTo(int count) {
    std::vector<std::string> labels;
    for (int i = 0; i < count; ++i) labels.push_back(absl::StrCat("n", i));
    return labels;
  }

  const TempDir dir_;
  FakeInference inference_;
  std::unique_ptr<grpc::Server> server_;
  Connection connection_;
  ClassifyOptions options_;
  std::ostringstream out_, err_;
};

TEST_F(ClassifyTest, OneImageIsABlockOfItsLabels) {
  const auto bee = dir_.Write("bee.jpg", "bee");
  EXPECT_EQ(Classify({bee}), kDone);
  EXPECT_EQ(out_.str(), bee.string() + "\n  0.7500  bee\n");
  EXPECT_EQ(err_.str(), "");
  EXPECT_EQ(inference_.last.top_k(), 5);
}

TEST_F(ClassifyTest, LabelsAndPathsCannotDrawOnTheTerminal) {
  const auto bee = dir_.Write("b\x1b[2J\n.jpg", "b\x1b[2J\n");
  const auto noise = dir_.Write("n\x1b[2J\n.jpg", "noise");
  const std::string shown = (dir_.path() / "b\\x1b[2J\\n.jpg").string();
  EXPECT_EQ(Classify({bee}), kDone);
  EXPECT_EQ(out_.str(), shown + "\n  0.7500  b\\x1b[2J\\n\n");
  EXPECT_EQ(Classify({bee, noise}), kFailed);
  EXPECT_THAT(out_.str(), HasSubstr(shown + "  b\\x1b[2J\\n    0.7500\n"));
  EXPECT_THAT(err_.str(), HasSubstr("/n\\x1b[2J\\n.jpg: not an image\n"));
  EXPECT_THAT(out_.str() + err_.str(), ::testing::Not(HasSubstr("\x1b")));
}

TEST_F(ClassifyTest, ManyImagesAreATableAndALineThatSumsUp) {
  dir_.Write("a/1.JPG", "bee");
  dir_.Write("a/b/2.png", "bumble bee");
  dir_.Write("a/.hidden.jpg", "noise");
  dir_.Write("a/notes.txt", "noise");
  const std::string a = (dir_.path() / "a").string();
  EXPECT_EQ(Classify({a}), kDone);
  const std::string gap(a.size() + 8 - 4, ' ');
  EXPECT_EQ(out_.str(), "FILE" + gap + "  LABEL         PROBABILITY\n" +  //
                            a + "/1.JPG    bee           0.7500\n" +      //
                            a + "/b/2.png  bumble bee    0.7500\n");
  EXPECT_THAT(err_.str(), HasSubstr("skipped 1 files that are not named"));
  EXPECT_THAT(err_.str(), ::testing::ContainsRegex(
                              "\n2 images, [0-9.]+ images/s, 0 failed\n"));
  EXPECT_EQ(inference_.last.top_k(), 1);
}

TEST_F(ClassifyTest, ResultsComeInTheOrderOfThePaths) {
  inference_.hold = 5;
  options_.window = 8;
  EXPECT_EQ(Classify(WriteFiles(103)), kDone);
  EXPECT_EQ(Labels(), NumbersUpTo(103));
  EXPECT_EQ(inference_.streams, 1);
}

TEST_F(ClassifyTest, AWindowOfImagesIsOnItsWayAndNoMore) {
  inference_.hold = 4;  // As the window: with one less it would stand still.
  options_.window = 4;
  EXPECT_EQ(Classify(WriteFiles(40)), kDone);
  EXPECT_EQ(inference_.max_held, 4u);
}

TEST_F(ClassifyTest, BadImagesFailAloneInTheirTurnAndSetTheExitCode) {
  connection_.json = true;
  const auto bee = dir_.Write("bee.jpg", "bee");
  const auto noise = dir_.Write("noise.jpg", "noise");
  EXPECT_EQ(Classify({bee, dir_.path() / "none.jpg", noise, bee}), kFailed);
  const std::vector<std::string> lines =
      absl::StrSplit(out_.str(), '\n', absl::SkipEmpty());
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], "{\"image\":\"" + bee.string() +
                          "\",\"model\":\"insects\",\"version\":2,\"scores\":[{"
                          "\"label\":\"bee\",\"probability\":0.75}]}");
  EXPECT_THAT(lines[1], HasSubstr("\"code\":\"NOT_FOUND\""));
  EXPECT_THAT(lines[2], HasSubstr("\"code\":\"INVALID_ARGUMENT\""));
  EXPECT_EQ(lines[3], lines[0]);
  EXPECT_THAT(err_.str(), HasSubstr("noise.jpg: not an image"));
  EXPECT_THAT(err_.str(), HasSubstr(" 2 failed\n"));
}

TEST_F(ClassifyTest, MoreUnreadableFilesThanTheWindowHoldsAreReported) {
  options_.window = 2;
  std::vector<std::string> files(20, dir_.path() / "none.jpg");
  EXPECT_EQ(Classify(files), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("20 images, "));
}

TEST_F(ClassifyTest, ErrorThatAllImagesShareEndsTheCommandAtOnce) {
  inference_.error = NoSuchResourceError("model", "birds");
  const auto bee = dir_.Write("bee.jpg", "bee");
  const auto noise = dir_.Write("noise.jpg", "noise");
  EXPECT_EQ(Classify({bee, noise, noise}), kFailed);
  EXPECT_EQ(err_.str(),
            "1 of 3 images have a result.\nfinetune: no model \"birds\"\n");
}

TEST_F(ClassifyTest, BrokenStreamGoesOnWithWhatHasNoAnswer) {
  inference_.break_after = 7;
  EXPECT_EQ(Classify(WriteFiles(50)), kDone);
  EXPECT_EQ(Labels(), NumbersUpTo(50));
  EXPECT_EQ(inference_.streams, 2);
  EXPECT_EQ(inference_.answers, 50);
}

TEST_F(ClassifyTest, StreamThatBreaksWithoutAnAnswerIsNotTriedAgain) {
  inference_.break_after = 0;
  EXPECT_EQ(Classify(WriteFiles(3)), kUnreachable);
  EXPECT_EQ(inference_.streams, 1);
  EXPECT_THAT(err_.str(), HasSubstr("0 of 3 images have a result.\n"));
}

TEST_F(ClassifyTest, SilentServerIsGivenUpAfterTheTimeout) {
  inference_.silent = true;
  connection_.timeout_seconds = 0.05;
  EXPECT_EQ(Classify(WriteFiles(1)), kUnreachable);
  EXPECT_THAT(err_.str(), HasSubstr("nothing came for 50ms"));
}

TEST_F(ClassifyTest, ServerThatAnswersWronglyIsAFailure) {
  for (const char* id : {"7", "bee"}) {
    inference_.wrong_id = id;
    EXPECT_EQ(Classify(WriteFiles(2)), kFailed);
    EXPECT_THAT(err_.str(), HasSubstr(absl::StrCat("sent: \"", id, "\"")));
  }
}

TEST_F(ClassifyTest, RefusedStreamIsAFailure) {
  inference_.end = ToGrpcStatus(absl::UnauthenticatedError("no token"));
  EXPECT_EQ(Classify(WriteFiles(1)), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("finetune: no token\n"));
}

TEST_F(ClassifyTest, OlderServerIsNamedAsSuch) {
  v1::InferenceService::Service older;
  grpc::ServerBuilder builder;
  builder.RegisterService(&older);
  const auto server = builder.BuildAndStart();
  connection_.channel = server->InProcessChannel({});
  EXPECT_EQ(Classify(WriteFiles(1)), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("older than this client"));
}

TEST_F(ClassifyTest, ServerThatIsNotThereIsExitCodeThree) {
  connection_.server = "127.0.0.1:1";
  ASSERT_THAT(Connect(connection_), IsOk());
  EXPECT_EQ(Classify(WriteFiles(1)), kUnreachable);
  EXPECT_THAT(err_.str(), HasSubstr("no answer from 127.0.0.1:1"));
}

TEST_F(ClassifyTest, BarIsOnTheTerminalOnlyWithMoreThanOneImage) {
  options_.terminal_width = 80;
  EXPECT_EQ(Classify(WriteFiles(1)), kDone);
  EXPECT_EQ(err_.str(), "");
  EXPECT_EQ(Classify(WriteFiles(2)), kDone);
  EXPECT_THAT(err_.str(), HasSubstr("] 0 of 2 images"));
  EXPECT_THAT(err_.str(), HasSubstr("\r\033[K2 images, "));
}

TEST_F(ClassifyTest, FolderWithoutImagesIsAFailure) {
  dir_.Write("notes.txt", "");
  EXPECT_EQ(Classify({dir_.path()}), kFailed);
  EXPECT_THAT(err_.str(), HasSubstr("no images: files must end in"));
}

TEST(ImageListTest, FoldersAreSortedWithinTheOrderOfThePaths) {
  const TempDir dir;
  for (const char* name : {"b/2.webp", "b/1.bmp", "a/x.jpeg", "a/.git/y.jpg"}) {
    dir.Write(name, "");
  }
  const std::string root = dir.path().string();
  const ImageList list =
      ListImages({root + "/b", "none.gif", root + "/a", root + "/b/1.bmp"});
  EXPECT_THAT(list.files,
              ElementsAre(root + "/b/1.bmp", root + "/b/2.webp", "none.gif",
                          root + "/a/x.jpeg", root + "/b/1.bmp"));
  EXPECT_EQ(list.skipped, 0u);
}

TEST(ParseModelRefTest, TakesANameAndAVersion) {
  EXPECT_EQ(ParseModelRef("hotdog")->name(), "hotdog");
  EXPECT_EQ(ParseModelRef("hotdog")->version(), 0);
  EXPECT_EQ(ParseModelRef("hotdog@12")->version(), 12);
  for (const char* bad : {"", "@1", "hotdog@", "hotdog@x", "hotdog@0"}) {
    EXPECT_FALSE(ParseModelRef(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace finetune
