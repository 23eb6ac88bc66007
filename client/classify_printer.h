// Results of images, as text or JSON.

#ifndef CLIENT_CLASSIFY_PRINTER_H_
#define CLIENT_CLASSIFY_PRINTER_H_

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "finetune/v1/inference_service.pb.h"

namespace finetune {

enum class ClassifyLayout {
  kBlock,  // The file, and below it a line for each label.
  kTable,  // One line an image: FILE, then LABEL and PROBABILITY for each.
  kJson,   // One object a line for each image.
};

// Not thread-safe.
class ClassifyPrinter {
 public:
  // `file_width` is the table's first column.
  ClassifyPrinter(ClassifyLayout layout, int file_width, std::ostream& out,
                  std::ostream& err)
      : layout_(layout), file_width_(file_width), out_(out), err_(err) {}

  void Scores(const std::string& file,
              const v1::ClassifyStreamResponse& answer);

  // Goes to `err`; as JSON to `out` too.
  void Error(const std::string& file, const absl::Status& error);

 private:
  void Block(const std::string& file, const v1::ClassifyResult& result);
  void Row(const std::string& file, const v1::ClassifyResult& result);
  void Json(const std::string& file, const v1::ClassifyStreamResponse& answer);

  const ClassifyLayout layout_;
  const int file_width_;
  std::ostream& out_;
  std::ostream& err_;
  int label_width_ = 12;  // Grows with the widest label so far.
  bool has_header_ = false;
};

}  // namespace finetune

#endif  // CLIENT_CLASSIFY_PRINTER_H_
