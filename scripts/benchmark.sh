#!/usr/bin/env bash
# Measures serving against peers, all in one run on one machine, and prints
# Markdown tables. The peers are small Python servers of our own (scripts/bench):
# grpcio with dynamic batching over ONNX Runtime, OpenVINO and eager PyTorch.
#   benchmark.sh [--parts raw,serve,overhead,job] [--seconds 6] [--rounds 3]
#     raw       the forward pass alone, batch 1, 8, 32
#     serve     JPEGs over gRPC by 1, 8 and 32 callers, the servers in turn
#     overhead  what a request costs beyond its computing, one caller
#     job       latency at half of the peak, with and without a running job
#   --seconds is of each measurement.
# Makes a Python environment in .deps/benchmark-env (6 GB of packages).
# Reads: FINETUNE_DATASET   photos to send, resized; default: drawn ones
#        BENCHMARK_PYTHON   a Python that has the packages below, instead of
#                           that environment
#        BENCHMARK_THREADS  of every engine; default: 2
#        BENCHMARK_BUILT    1: do not run setup.sh, use what is built
#        and setup.sh's
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=(torch==2.14.1 torchvision==0.29.1 onnxruntime==1.32.0 openvino==2026.4.1
  onnx==1.23.2 safetensors grpcio==1.85.1 pillow numpy)
peers=(onnxruntime openvino torch)
levels=(1 8 32)
bench=$root/scripts/bench
threads=${BENCHMARK_THREADS:-2}

parts=raw,serve,overhead,job seconds=6 rounds=3
while [[ $# -gt 0 ]]; do
  [[ $# -ge 2 ]] || die "no value for $1"
  case $1 in
    --parts) parts=$2 ;;
    --seconds) seconds=$2 ;;
    --rounds) rounds=$2 ;;
    *) die "unknown option $1; it takes --parts, --seconds and --rounds" ;;
  esac
  shift 2
done
for part in ${parts//,/ }; do
  [[ $part =~ ^(raw|serve|overhead|job)$ ]] || die "there is no part $part"
done

# record PART SERVER ROUND RESULT
record() {
  printf '{"part": "%s", "server": "%s", "round": %d, "result": %s}\n' \
    "$1" "$2" "$3" "$4" >>"$work/results.jsonl"
  echo "$1 $2: $4" >&2
}

# load ADDRESS PROTOCOL [FLAG...]: prints the load program's line.
load() {
  local address=$1 protocol=$2
  shift 2
  "$bin/finetune-load" --server "$address" --protocol "$protocol" \
    --photos "$work/photos" --seconds "$seconds" --warmup 1 "$@"
}

# field NAME: of an object in the JSON on standard input.
field() { sed -n "s/.*\"$1\": *\"\?\([^\",]*\).*/\1/p" | head -n 1; }

# model_of PEER: the file that it loads.
model_of() {
  if [[ $1 == torch ]]; then echo "$safetensors"; else echo "$work/model.onnx"; fi
}

peer_pids=()
declare -A address_of

start_peers() {
  local peer address
  for peer in "${peers[@]}"; do
    "$python" "$bench/peer_server.py" "$peer" "$(model_of "$peer")" \
      --threads "$threads" >"$work/$peer.out" 2>"$work/$peer.log" &
    peer_pids+=("$!")
    await_address "${peer_pids[-1]}" "$work/$peer.out" ||
      { cat "$work/$peer.log" >&2; die "the peer over $peer did not start"; }
    address_of[$peer]=$address
  done
}

stop_peers() {
  [[ ${#peer_pids[@]} -gt 0 ]] || return 0
  kill "${peer_pids[@]}" 2>/dev/null || true
  wait "${peer_pids[@]}" 2>/dev/null || true
  peer_pids=()
}

# Publishes a model of one short job, and exports it for the peers. The weights
# do not matter for the speed.
publish_model() {
  python3 "$root/scripts/draw_pictures.py" "$work/data/pictures" --train 4 --test 2
  "$bin/finetune" start pictures --name benchmark --from-scratch --epochs 1 \
    --batch-size 4 --lr 0.001 --seed 1 --watch >&2
  safetensors=$work/state/models/benchmark/1/weights.safetensors
  "$python" "$bench/export_onnx.py" "$safetensors" "$work/model.onnx" \
    >"$work/export.log" 2>&1 || { cat "$work/export.log" >&2; die "no ONNX file"; }
}

measure_raw() {
  local ours=$bin/forward_benchmark round peer batch
  if [[ ! -x $ours ]]; then
    echo "forward_benchmark is not built: the peers' forward passes only" >&2
  fi
  for ((round = 1; round <= rounds; round++)); do
    for batch in "${levels[@]}"; do
      local flags=(--threads "$threads" --batch "$batch" --seconds "$seconds")
      [[ -x $ours ]] && record raw finetuned "$round" "$("$ours" "${flags[@]}")"
      for peer in "${peers[@]}"; do
        record raw "$peer" "$round" \
          "$("$python" "$bench/raw_forward.py" "$peer" "$(model_of "$peer")" "${flags[@]}")"
      done
    done
  done
}

measure_serve() {
  local round level peer
  start_peers
  for ((round = 1; round <= rounds; round++)); do
    for level in "${levels[@]}"; do
      record serve finetuned "$round" \
        "$(load "$FINETUNE_SERVER" classify --concurrency "$level")"
      for peer in "${peers[@]}"; do
        record serve "$peer" "$round" \
          "$(load "${address_of[$peer]}" peer --concurrency "$level")"
      done
    done
  done
  stop_peers
}

measure_overhead() {
  record overhead finetuned 1 "$(load "$FINETUNE_SERVER" classify --concurrency 1)"
}

measure_job() {
  local half job tries
  half=$(load "$FINETUNE_SERVER" classify --concurrency 32 | field images_per_second |
    awk '{ print $1 / 2 }')
  record job "without a job" 1 "$(load "$FINETUNE_SERVER" classify --rate "$half")"
  for split in train test; do
    for class in a b; do
      mkdir -p "$work/data/photos/$split"
      cp -r "$work/photos" "$work/data/photos/$split/$class"
    done
  done
  job=$("$bin/finetune" start photos --name background --from-scratch --epochs 1000 \
    --hold-promotion --json | field job_id)
  for ((tries = 0; tries < 600; tries++)); do
    "$bin/finetune" progress "$job" --json | grep -q '"step":' && break
    sleep 0.1
  done
  record job "with a job" 1 "$(load "$FINETUNE_SERVER" classify --rate "$half")"
  "$bin/finetune" cancel "$job" >&2
}

[[ ${BENCHMARK_BUILT:-} == 1 ]] || "$root/scripts/setup.sh"
python=${BENCHMARK_PYTHON:-}
[[ -n $python ]] || make_python_env "$root/.deps/benchmark-env" "${packages[@]}"

work=$(mktemp -d)
trap 'stop_peers; stop_server; rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir "$work/state" "$work/data"
source_flag=()
[[ -n ${FINETUNE_DATASET:-} ]] && source_flag=(--source "$FINETUNE_DATASET")
"$python" "$bench/make_photos.py" "$work/photos" "${source_flag[@]}" >&2
start_server "$work/state" "$work/data" --threads "$threads"
publish_model

for part in ${parts//,/ }; do "measure_$part"; done
"$python" "$bench/table.py" "$work/results.jsonl" "$threads"
