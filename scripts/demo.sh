#!/usr/bin/env bash
# The main job, from nothing: sets up and builds, starts a server, fine-tunes
# ResNet18 on photos, classifies a few test photos, and stops what it started.
# Reads: FINETUNE_WEIGHTS  ImageNet weights; default: downloaded
#        FINETUNE_DATASET  folder with train/ and test/ or val/; default: the
#                          hot dog set, downloaded; with no network: pictures
#                          that draw_pictures.py draws
#        DEMO_EPOCHS, DEMO_LR, DEMO_BATCH_SIZE, DEMO_DEVICE (auto, cpu, cuda)
#        and setup.sh's
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$root/scripts/setup.sh"

work=$(mktemp -d)
trap 'stop_server; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# What to train on, and how: the recipe's own step size (0.01) settles on the
# hot dog set; a smaller set has too few steps for it.
choose_weights
choose_dataset
lr=0.001 batch_size=64 flags=()
[[ $dataset == */.deps/data/hotdog ]] && lr=0.01
if [[ -z $dataset ]]; then
  echo
  echo "NO PHOTOS: none could be downloaded and FINETUNE_DATASET is not set."
  echo "The demo goes on with small pictures of discs, crosses and stripes that it draws itself."
  dataset=$work/pictures
  python3 "$root/scripts/draw_pictures.py" "$dataset"
  batch_size=8
fi
if [[ -n $weights ]]; then
  flags+=(--pretrained "$weights")
  start=()
else
  echo "NO PRETRAINED WEIGHTS: training starts from scratch, so expect less than of fine-tuning."
  start=(--from-scratch)
  lr=0.003
fi

echo
echo "== server"
mkdir "$work/state"
start_server "$work/state" "$(dirname "$dataset")" \
  --device "${DEMO_DEVICE:-auto}" "${flags[@]}"
echo "finetuned listens on $FINETUNE_SERVER"

echo
echo "== training on $(basename "$dataset")"
"$bin/finetune" start "$(basename "$dataset")" --name demo --watch \
  --epochs "${DEMO_EPOCHS:-5}" --lr "${DEMO_LR:-$lr}" \
  --batch-size "${DEMO_BATCH_SIZE:-$batch_size}" --seed 1 "${start[@]}"

echo
echo "== test photos, each in the folder of its true label"
photos=()
test_photos=$(test_folder "$dataset")
for class in "$test_photos"/*/; do
  mapfile -t -O "${#photos[@]}" photos < <(photos_of "$class" 2)
done
"$bin/finetune" classify "${photos[@]:0:8}" --model demo --top-k 3
