#include "client/classify_printer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/utf8.h"
#include "nlohmann/json.hpp"

namespace finetune {
namespace {

using OrderedJson = nlohmann::ordered_json;

// File names need not be UTF-8; what is not becomes U+FFFD.
void PrintLine(const OrderedJson& line, std::ostream& out) {
  out << line.dump(-1, ' ', false, OrderedJson::error_handler_t::replace)
      << std::endl;
}

}  // namespace

void ClassifyPrinter::Scores(const std::string& file,
                             const v1::ClassifyStreamResponse& answer) {
  switch (layout_) {
    case ClassifyLayout::kBlock:
      return Block(file, answer.result());
    case ClassifyLayout::kTable:
      return Row(file, answer.result());
    case ClassifyLayout::kJson:
      return Json(file, answer);
  }
}

void ClassifyPrinter::Error(const std::string& file,
                            const absl::Status& error) {
  err_ << "finetune: " << ToPrintable(file) << ": "
       << ToPrintable(error.message()) << std::endl;
  if (layout_ != ClassifyLayout::kJson) return;
  PrintLine({{"image", file},
             {"error",
              {{"code", absl::StatusCodeToString(error.code())},
               {"message", std::string(error.message())}}}},
            out_);
}

void ClassifyPrinter::Block(const std::string& file,
                            const v1::ClassifyResult& result) {
  out_ << ToPrintable(file) << "\n";
  for (const v1::ClassScore& score : result.scores()) {
    out_ << absl::StrFormat("  %.4f  %s\n", score.probability(),
                            ToPrintable(score.label()));
  }
  out_.flush();
}

void ClassifyPrinter::Row(const std::string& file,
                          const v1::ClassifyResult& result) {
  for (const v1::ClassScore& score : result.scores()) {
    label_width_ = std::max(
        label_width_, static_cast<int>(ToPrintable(score.label()).size()));
  }
  if (!std::exchange(has_header_, true)) {
    out_ << absl::StrFormat("%-*s  %-*s  %s\n", file_width_, "FILE",
                            label_width_, "LABEL", "PROBABILITY");
  }
  out_ << absl::StrFormat("%-*s", file_width_, ToPrintable(file));
  for (const v1::ClassScore& score : result.scores()) {
    out_ << absl::StrFormat("  %-*s  %.4f", label_width_,
                            ToPrintable(score.label()), score.probability());
  }
  out_ << std::endl;
}

void ClassifyPrinter::Json(const std::string& file,
                           const v1::ClassifyStreamResponse& answer) {
  OrderedJson scores = OrderedJson::array();
  for (const v1::ClassScore& score : answer.result().scores()) {
    scores.push_back(
        {{"label", score.label()}, {"probability", score.probability()}});
  }
  PrintLine({{"image", file},
             {"model", answer.model().name()},
             {"version", answer.model().version()},
             {"scores", std::move(scores)}},
            out_);
}

}  // namespace finetune
