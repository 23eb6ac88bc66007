#!/usr/bin/env bash
# Makes build/gpu_kit: a folder that proves the CUDA half of the programs on a
# machine with a GPU, PyTorch and no network. docs/gpu_kit.md says how to use it.
# Reads: GPU_KIT_BUILT     1: do not build, take what is in build/kit
#        CUDA_TORCH        as build_cuda.sh
#        FINETUNE_WEIGHTS  ImageNet weights (.pth) to bring along; without them
#                          the kit's jobs train from scratch
#        FINETUNE_DATASET  photos to bring along, as many as fit; without them
#                          the kit draws pictures
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

readonly max_bytes=$((60 << 20)) filled_bytes=$((57 << 20))
programs=(finetuned finetune-trainer finetune finetune-load)
helpers=(predictor_benchmark training_benchmark)
here=$root/scripts/gpu_kit
out=$root/build/gpu_kit
built=$root/build/kit/bin

[[ ${GPU_KIT_BUILT:-} == 1 ]] || "$root/scripts/build_cuda.sh" kit
torch=${CUDA_TORCH:-}
if [[ -z $torch ]]; then
  torch=$(find "$root/.deps/cuda-env/lib" -maxdepth 3 -path '*/site-packages/torch')
fi
[[ -f $torch/version.py ]] || die "no PyTorch in '$torch'; set CUDA_TORCH"

# Python with that PyTorch.
torch_python() { PYTHONPATH=$(dirname "$torch") python3 -W ignore "$@"; }

size_of() { du --apparent-size --bytes --summarize "$1" | cut -f 1; }

# pack FOLDER ARCHIVE NAME...: the same bytes for the same files. x86 code
# compresses by 6% better with its own filter.
pack() {
  local folder=$1 archive=$2
  shift 2
  tar --directory "$folder" --sort=name --mtime=@0 --owner=0 --group=0 \
    --numeric-owner --create --file - "$@" |
    xz --x86 --lzma2=preset=9e,dict=128MiB --stdout >"$archive"
}

collect_programs() {
  local name dir chosen=() excluded=("$torch/lib")
  for name in "${programs[@]}"; do
    [[ -x $built/$name ]] || die "$built/$name is not built"
    chosen+=("$built/$name")
  done
  for name in "${helpers[@]}"; do
    if [[ -x $built/$name ]]; then
      chosen+=("$built/$name")
    else
      echo "left out: $name, which is not built"
    fi
  done
  for name in "$built"/{cuda_*,device*}_test; do
    [[ -x $name ]] && chosen+=("$name")
  done
  for dir in "$torch"/../nvidia/*/lib; do [[ -d $dir ]] && excluded+=("$dir"); done
  "$here/collect.sh" "$work" "${excluded[@]}" -- "${chosen[@]}"
}

collect_sources() {
  git ls-files --cached --others --exclude-standard |
    grep -vE '^(server/testdata/(golden|bad)|docker)/' |
    while read -r file; do if [[ -f $file ]]; then echo "$file"; fi; done \
      >"$work/sources.txt"
  mkdir "$work/sources"
  tar --create --file - --files-from "$work/sources.txt" |
    tar --extract --directory "$work/sources"
}

add_photos() {
  local room
  [[ -d $FINETUNE_DATASET/train ]] || die "no folder train/ in FINETUNE_DATASET"
  room=$((filled_bytes - $(size_of "$out")))
  make_python_env "$root/.deps/kit-env" pillow
  "$python" "$here/photos.py" "$FINETUNE_DATASET" "$out/data.tar" --bytes "$room"
}

check() {
  local file size
  while read -r file; do
    [[ $file =~ ^[A-Za-z0-9._-]+$ ]] || die "a name that may not travel: $file"
  done < <(find "$out" -mindepth 1 -printf '%f\n')
  size=$(size_of "$out")
  find "$out" -type f -printf '%10s  %f\n' | sort -rn
  printf '%s: %.1f MiB\n' "$out" "$(awk "BEGIN { print $size / 2^20 }")"
  ((size <= max_bytes)) || die "more than $((max_bytes >> 20)) MiB"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
rm -rf "$out"
mkdir -p "$out"

{
  sed -nE "s/^__version__ = '([0-9.]+).*/torch \1/p" "$torch/version.py"
  echo "commit $(git describe --always --dirty)"
} >"$out/VERSION"
cp "$here"/{run.sh,build_there.sh,*.py} "$root/scripts/draw_pictures.py" "$out"
rm "$out/photos.py"  # Has done its work here.

collect_programs
pack "$work" "$out/programs.tar.xz" bin lib lib_fallback
"$here/sdk.sh" "$work/sdk" "$work/lib"
pack "$work" "$out/sdk.tar.xz" sdk
collect_sources
pack "$work" "$out/sources.tar.xz" sources
if [[ -n ${FINETUNE_WEIGHTS:-} ]]; then
  torch_python "$here/weights.py" pack "$FINETUNE_WEIGHTS" "$out/weights.safetensors.xz"
fi
[[ -z ${FINETUNE_DATASET:-} ]] || add_photos
check
