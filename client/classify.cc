#include "client/classify.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/classify_printer.h"
#include "client/classify_stream.h"
#include "client/image_list.h"
#include "client/transfer_printer.h"
#include "common/rpc_status.h"
#include "common/utf8.h"

namespace finetune {
namespace {

constexpr int kDefaultTopK = 5;
constexpr size_t kMaxFileColumn = 60;

int FileWidth(const std::vector<std::string>& files) {
  size_t width = 4;
  for (const std::string& file : files) {
    width = std::max(width, ToPrintable(file).size());
  }
  return static_cast<int>(std::min(width, kMaxFileColumn));
}

// What one run of the command shows.
class Display {
 public:
  Display(const std::vector<std::string>& files, const ClassifyOptions& options,
          ClassifyLayout layout, std::ostream& out, std::ostream& err)
      : files_(files),
        printer_(layout, FileWidth(files), out, err),
        bar_(files.size(), files.size() > 1 ? options.terminal_width : 0, err,
             Unit::kImages),
        out_shows_bar_(options.out_is_terminal),
        err_(err) {
    bar_.Print(0);
  }

  // An error that all images would share.
  absl::Status Show(size_t i,
                    const absl::StatusOr<v1::ClassifyStreamResponse>& result) {
    absl::Status error = result.status();
    if (result.ok() && result->result().has_error()) {
      error = FromRpcStatus(result->result().error());
      if (absl::IsNotFound(error) || absl::IsFailedPrecondition(error)) {
        bar_.Clear();
        return error;
      }
    }
    if (out_shows_bar_ || !error.ok()) bar_.Clear();
    ++shown_;
    if (error.ok()) {
      printer_.Scores(files_[i], *result);
    } else {
      ++failed_;
      printer_.Error(files_[i], error);
    }
    bar_.Print(shown_);
    return absl::OkStatus();
  }

  void SumUp() {
    bar_.Clear();
    if (files_.size() < 2) return;
    const double seconds =
        std::max(1e-3, absl::ToDoubleSeconds(absl::Now() - begin_));
    err_ << absl::StrFormat("%d images, %.1f images/s, %d failed\n", shown_,
                            static_cast<double>(shown_) / seconds, failed_);
  }

  void BreakOff() {
    bar_.Clear();
    if (files_.size() < 2) return;
    err_ << shown_ << " of " << files_.size() << " images have a result.\n";
  }

  bool failed() const { return failed_ > 0; }

 private:
  const std::vector<std::string>& files_;
  ClassifyPrinter printer_;
  TransferPrinter bar_;
  const bool out_shows_bar_;  // `out` and the bar are on one terminal.
  std::ostream& err_;
  const absl::Time begin_ = absl::Now();
  size_t shown_ = 0;
  size_t failed_ = 0;  // Of those.
};

}  // namespace

absl::StatusOr<v1::ModelRef> ParseModelRef(const std::string& text) {
  v1::ModelRef ref;
  const size_t at = text.find('@');
  ref.set_name(text.substr(0, at));
  int64_t version = 0;
  if (at != std::string::npos) {
    if (!absl::SimpleAtoi(text.substr(at + 1), &version) || version < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", text, "\" is not NAME or NAME@VERSION"));
    }
    ref.set_version(version);
  }
  if (ref.name().empty()) {
    return absl::InvalidArgumentError("the model's name is empty");
  }
  return ref;
}

ExitCode ClassifyPaths(const Connection& connection,
                       const std::vector<std::string>& paths,
                       const ClassifyOptions& options, std::ostream& out,
                       std::ostream& err) {
  const ImageList list = ListImages(paths);
  if (list.skipped > 0) {
    err << "finetune: skipped " << list.skipped
        << " files that are not named as images\n";
  }
  if (list.files.empty()) {
    err << "finetune: no images: files must end in jpg, jpeg, png, bmp or "
           "webp\n";
    return kFailed;
  }
  const ClassifyLayout layout = connection.json ? ClassifyLayout::kJson
                                : list.files.size() > 1
                                    ? ClassifyLayout::kTable
                                    : ClassifyLayout::kBlock;
  Display display(list.files, options, layout, out, err);
  const absl::Status status = ClassifyInOrder(
      connection, list.files,
      {.model = options.model,
       .top_k = options.top_k.value_or(
           layout == ClassifyLayout::kTable ? 1 : kDefaultTopK),
       .window = options.window},
      [&](size_t i, const auto& result) { return display.Show(i, result); });
  if (!status.ok()) {
    display.BreakOff();
    return PrintError(connection, status, err);
  }
  display.SumUp();
  return display.failed() ? kFailed : kDone;
}

}  // namespace finetune
