#!/usr/bin/env bash
# Brings LibTorch to .deps/libtorch. Quick when it is there.
# Reads: LIBTORCH      a LibTorch folder of your own (with share/cmake/Torch):
#                      .deps/libtorch becomes a link to it
#        LIBTORCH_URL  an archive or a wheel to take instead of the official one
#        LIBTORCH_SHA256  of the file to download, from there or from pip
# Without LIBTORCH: the archive, else PyTorch's package from pip.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=2.13.0
target=$root/.deps/libtorch
mkdir -p "$root/.deps"

has_version() {
  grep -qs "\"$version" "$1/share/cmake/Torch/TorchConfigVersion.cmake"
}

# changed: tells setup.sh to configure again.
changed() {
  touch "$root/.deps/libtorch.changed"
  echo "LibTorch: $1"
}

if [[ -n ${LIBTORCH:-} ]]; then
  [[ -f $LIBTORCH/share/cmake/Torch/TorchConfig.cmake ]] ||
    die "LIBTORCH=$LIBTORCH holds no share/cmake/Torch/TorchConfig.cmake"
  wanted=$(realpath "$LIBTORCH")
  [[ $(realpath -m "$target") == "$wanted" ]] && exit 0
  if [[ -d $target && ! -L $target ]]; then  # A download: kept for later.
    rm -rf "$target.downloaded"
    mv "$target" "$target.downloaded"
  fi
  ln -sfn "$wanted" "$target"
  changed "$wanted (LIBTORCH)"
  exit 0
fi
[[ -L $target && -d $target/share/cmake/Torch ]] && exit 0
has_version "$target" && exit 0
if has_version "$target.downloaded"; then
  rm -f "$target"
  mv "$target.downloaded" "$target"
  changed "$target, downloaded earlier"
  exit 0
fi

aside=$(mktemp -d "$root/.deps/libtorch.XXXXXX")
trap 'rm -rf "$aside"' EXIT
trap 'exit 130' INT TERM

# unpack FILE: an archive with a folder libtorch, or a wheel with a folder torch.
unpack() {
  if [[ -n ${LIBTORCH_SHA256:-} ]] &&
    ! sha256sum --check --status <<<"$LIBTORCH_SHA256  $1"; then
    echo "LibTorch: $(basename "$1") does not have the SHA-256 $LIBTORCH_SHA256" >&2
    return 1
  fi
  local folder=libtorch
  unzip -qt "$1" 'torch/lib/*' >/dev/null 2>&1 && folder=torch
  unzip -q "$1" "$folder/lib/*" "$folder/include/*" "$folder/share/*" \
    -d "$aside" 2>/dev/null || return 1
  [[ $folder == libtorch ]] || mv "$aside/$folder" "$aside/libtorch"
}

from_archive() {
  local url=${LIBTORCH_URL:-https://download.pytorch.org/libtorch/cpu/libtorch-shared-with-deps-$version%2Bcpu.zip}
  local zip=$root/.deps/libtorch-$version.zip
  if [[ -z ${LIBTORCH_URL:-} && $(uname -m) != x86_64 ]]; then
    echo "LibTorch: the official archive is for x86_64 only" >&2
    return 1
  fi
  [[ -n ${LIBTORCH_URL:-} ]] && zip=$root/.deps/libtorch-from-url.zip
  echo "LibTorch: downloading $url"
  if ! download "$url" "$zip"; then
    echo "LibTorch: no download from there: $download_error" >&2
    return 1
  fi
  if ! unpack "$zip"; then
    echo "LibTorch: cannot take it from $url" >&2
    rm -rf "$zip" "${aside:?}"/*
    return 1
  fi
  rm -f "$zip"
}

from_pip() {
  echo "LibTorch: downloading torch==$version with pip"
  if ! python3 -m pip --quiet download --no-deps --only-binary=:all: \
      --retries 2 --dest "$aside" "torch==$version"; then
    echo "LibTorch: pip has no torch==$version for this system" >&2
    return 1
  fi
  unpack "$aside"/torch-*.whl
}

# A CUDA build in pip leaves NVIDIA's libraries to other packages.
without_nvidia() {
  [[ -f $aside/libtorch/lib/libtorch_cuda.so ]] &&
    ldd "$aside/libtorch/lib/libtorch_cuda.so" 2>/dev/null | grep -q 'not found'
}

from_archive || from_pip ||
  die "no source of LibTorch $version could be reached; set LIBTORCH to a folder that has it"
if without_nvidia; then
  die "this LibTorch is a CUDA build without NVIDIA's libraries:" \
    "'pip install torch==$version' brings both; then set LIBTORCH to its folder torch/"
fi
# Its headers of an older Protobuf would hide the system's.
rm -rf "$aside/libtorch/include/google"
rm -rf "$target"
mv "$aside/libtorch" "$target"
changed "$target ($version)"
