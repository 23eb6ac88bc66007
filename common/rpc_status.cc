#include "common/rpc_status.h"

#include <string>
#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "common/proto_time.h"
#include "common/utf8.h"
#include "google/protobuf/message_lite.h"
#include "google/rpc/error_details.pb.h"

namespace finetune {
namespace {

constexpr size_t kMaxMessageBytes = 1024;
// Payloads are keyed as google.protobuf.Any names its types.
constexpr char kTypePrefix[] = "type.googleapis.com/";

absl::Status WithDetail(absl::Status status,
                        const google::protobuf::MessageLite& detail) {
  status.SetPayload(absl::StrCat(kTypePrefix, detail.GetTypeName()),
                    absl::Cord(detail.SerializeAsString()));
  return status;
}

}  // namespace

absl::Status InvalidFieldError(absl::string_view field,
                               absl::string_view expected) {
  google::rpc::BadRequest detail;
  auto* violation = detail.add_field_violations();
  violation->set_field(std::string(field));
  violation->set_description(absl::StrCat("must be ", expected));
  return WithDetail(
      absl::InvalidArgumentError(absl::StrCat(field, " must be ", expected)),
      detail);
}

absl::Status NoSuchResourceError(absl::string_view type,
                                 absl::string_view name) {
  google::rpc::ResourceInfo detail;
  detail.set_resource_type(std::string(type));
  detail.set_resource_name(std::string(name));
  return WithDetail(
      absl::NotFoundError(absl::StrCat("no ", type, " \"", name, "\"")),
      detail);
}

absl::Status PreconditionError(absl::string_view type,
                               absl::string_view subject,
                               absl::string_view description) {
  google::rpc::PreconditionFailure detail;
  auto* violation = detail.add_violations();
  violation->set_type(std::string(type));
  violation->set_subject(std::string(subject));
  violation->set_description(std::string(description));
  return WithDetail(absl::FailedPreconditionError(description), detail);
}

absl::Status RetryAfter(absl::Status status, absl::Duration delay) {
  google::rpc::RetryInfo detail;
  *detail.mutable_retry_delay() = ToProto(delay);
  return WithDetail(std::move(status), detail);
}

std::optional<absl::Duration> RetryDelayOf(const absl::Status& status) {
  google::rpc::RetryInfo retry;
  const auto detail =
      status.GetPayload(absl::StrCat(kTypePrefix, retry.GetTypeName()));
  if (!detail.has_value() || !retry.ParseFromString(std::string(*detail))) {
    return std::nullopt;
  }
  return FromProto(retry.retry_delay());
}

absl::Status ShuttingDownError() {
  return RetryAfter(absl::UnavailableError("the server is shutting down"),
                    absl::Seconds(10));
}

google::rpc::Status ToRpcStatus(const absl::Status& status) {
  google::rpc::Status out;
  out.set_code(static_cast<int>(status.code()));
  // Twice, since a cut may split a character and escapes lengthen.
  out.set_message(ToUtf8(status.message().substr(0, kMaxMessageBytes))
                      .substr(0, kMaxMessageBytes));
  status.ForEachPayload(
      [&out](absl::string_view type_url, const absl::Cord& payload) {
        auto* detail = out.add_details();
        detail->set_type_url(std::string(type_url));
        detail->set_value(std::string(payload));
      });
  return out;
}

absl::Status FromRpcStatus(const google::rpc::Status& status) {
  absl::Status out(static_cast<absl::StatusCode>(status.code()),
                   status.message());
  for (const auto& detail : status.details()) {
    out.SetPayload(detail.type_url(), absl::Cord(detail.value()));
  }
  return out;
}

}  // namespace finetune
