#!/usr/bin/env bash
# Checks docker-compose.yml and its overrides with `docker compose config`, which
# needs no engine, the dashboard against its script, and the alerts with promtool.
# Prints a line each, and what it skipped; exits with 77 where there is no docker
# compose.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

if ! docker compose version >/dev/null 2>&1; then
  echo "compose files: SKIPPED, docker compose is not here"
  exit 77
fi

# check NAME FLAG...
check() {
  local name=$1
  shift
  if ! docker compose -f docker-compose.yml "$@" config --quiet; then
    echo "compose files, $name: FAILED"
    failed=1
    return
  fi
  echo "compose files, $name: good"
}

check_monitoring() {
  if ! python3 docker/monitoring/make_dashboard.py --check; then
    failed=1
  fi
  if ! command -v promtool >/dev/null; then
    echo "alerts: SKIPPED, promtool is not here"
    return
  fi
  (cd docker/monitoring && promtool check config prometheus.yml && promtool test rules alerts_test.yml) ||
    failed=1
}

failed=0
export FINETUNE_TLS_CERT=/dev/null FINETUNE_TLS_KEY=/dev/null
export FINETUNE_TLS_CA=/dev/null FINETUNE_TOKENS=/dev/null
check default
check client --profile client
check monitoring --profile monitoring
check "TLS" -f docker/compose.tls.yml --profile client
check "tokens" -f docker/compose.tokens.yml --profile client
check "GPU" -f docker/compose.gpu.yml
check_monitoring
exit $failed
