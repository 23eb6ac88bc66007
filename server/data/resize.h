// Antialiased bilinear resizing of 8-bit RGB, bit for bit as Pillow does it
// (Image.resize with BILINEAR; libImaging/Resample.c), since torchvision's
// transforms on photos are Pillow's. No library at hand gives these bits:
// OpenCV's INTER_AREA is up to 42 levels off, ATen's antialiased op one.

#ifndef SERVER_DATA_RESIZE_H_
#define SERVER_DATA_RESIZE_H_

#include "server/data/augment.h"
#include "server/data/decode.h"

namespace finetune {

// Resizes the part `from` of `image` to width x height, and returns the part
// `to` of that; nothing outside of `to` is computed.
//
// REQUIRES: `from` lies within the image and `to` within width x height;
// neither is empty, and to.width is a multiple of 8.
RgbImage Resize(const RgbImage& image, const CropBox& from, int width,
                int height, const CropBox& to);

}  // namespace finetune

#endif  // SERVER_DATA_RESIZE_H_
