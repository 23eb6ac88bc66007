#!/usr/bin/env bash
# Downloads torchvision's ImageNet weights of ResNet18 (45 MB) to torchvision's
# own place, where finetuned looks for them, and prints the file's path.
# Reads: TORCH_HOME  default ~/.cache/torch
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

url=https://download.pytorch.org/models/resnet18-f37072fd.pth
file=${TORCH_HOME:-$HOME/.cache/torch}/hub/checkpoints/resnet18-f37072fd.pth

# The name holds the beginning of the file's SHA-256.
genuine() {
  [[ $(sha256sum "$1" | cut -c 1-8) == f37072fd ]]
}

if [[ -f $file ]] && genuine "$file"; then
  echo "$file"
  exit 0
fi
echo "downloading weights: $url" >&2
fresh=$file.new
download "$url" "$fresh" || die "no download: $download_error"
if ! genuine "$fresh"; then
  rm -f "$fresh"
  die "what came from $url has another SHA-256 than its name says; deleted"
fi
mv "$fresh" "$file"
echo "$file"
