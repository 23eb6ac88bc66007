// The scan that a job begins with: every file is decoded once, so that
// training meets only images that it can read.

#ifndef SERVER_DATA_DATASET_H_
#define SERVER_DATA_DATASET_H_

#include "absl/status/statusor.h"
#include "finetune/v1/training_service.pb.h"
#include "server/data/decode.h"
#include "server/data/image_folder.h"

namespace finetune {

struct Dataset {
  ImageFolder folder;  // Readable images only, order kept.
  v1::DatasetStats stats;
};

// Decodes on `threads` >= 1 threads, about 1.5 ms of CPU per 500x375 JPEG.
// Files that are not usable images are left out and listed in `stats`. Reads
// each file once: its digest is of the bytes that were decoded.
//
// FAILED_PRECONDITION if that leaves a class without a training image, or no
// test image.
absl::StatusOr<Dataset> ScanDataset(ImageFolder folder,
                                    const DecodeLimits& limits, int threads);

// Reads and decodes one file. INVALID_ARGUMENT as DecodeRgb, or the file
// system's error.
absl::StatusOr<RgbImage> ReadImage(const std::filesystem::path& path,
                                   const DecodeLimits& limits);

}  // namespace finetune

#endif  // SERVER_DATA_DATASET_H_
