#!/usr/bin/env bash
# Shows that a published model is torchvision's: trains for one epoch, classifies
# test photos through the server, loads the same weights.safetensors in Python,
# and compares the probabilities. Fails where they differ by more than 0.001.
# Then downloads the model as ONNX and compares ONNX Runtime's logits with
# torch's. Fails where they differ by more than 0.0001.
# Makes a Python environment in .deps/parity-env (5 GB of packages).
# Reads: FINETUNE_WEIGHTS, FINETUNE_DATASET  default: downloaded, as in the demo
#        PARITY_PHOTOS  how many photos at most; default 60
#        PARITY_PYTHON  a Python that has torch, torchvision, safetensors and
#                       onnxruntime, instead of that environment; and setup.sh's
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

"$root/scripts/setup.sh"

python=${PARITY_PYTHON:-}
[[ -n $python ]] || make_python_env "$root/.deps/parity-env" \
  torch==2.14.1 torchvision==0.29.1 safetensors onnxruntime==1.32.0

choose_weights
choose_dataset
[[ -n $weights && -n $dataset ]] ||
  die "needs FINETUNE_WEIGHTS and FINETUNE_DATASET, or a network to download them"

work=$(mktemp -d)
trap 'stop_server; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$work/state"
start_server "$work/state" "$(dirname "$dataset")" --pretrained "$weights"
"$bin/finetune" start "$(basename "$dataset")" --name parity --watch \
  --epochs 1 --lr 0.001 --seed 1

# As many photos of each class.
count=${PARITY_PHOTOS:-60}
test_photos=$(test_folder "$dataset")
classes=("$test_photos"/*/)
each=$(((count + ${#classes[@]} - 1) / ${#classes[@]}))
photos=()
for class in "${classes[@]}"; do
  mapfile -t -O "${#photos[@]}" photos < <(photos_of "$class" "$each")
done
"$bin/finetune" classify "${photos[@]:0:count}" --model parity --top-k 0 --json \
  >"$work/answers.jsonl"
"$bin/finetune" download parity --format onnx -o "$work/parity.onnx"
"$python" "$root/scripts/parity.py" "$work/answers.jsonl" "$work/state/models" \
  "$work/parity.onnx"
