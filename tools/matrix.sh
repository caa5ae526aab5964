#!/usr/bin/env bash
# Runs the integration tests with each of several Envoys and prints what passed with which. tools/matrix.sh VERSION...
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p target/matrix
cargo test -p integration-tests --no-run
rows=()
failed=0
for version in "$@"; do
  echo "== Envoy $version"
  log=target/matrix/$version.log
  start=$SECONDS
  ENVOY=$PWD/.tools/envoy/$version/envoy cargo test -p integration-tests --no-fail-fast 2>&1 | tee "$log" || failed=1
  # Cargo closes each file of tests with: test result: ok. 12 passed; 0 failed; ...
  count() { sed -n "s/^test result: .* \([0-9]*\) $1;.*/\1/p" "$log" | awk '{ sum += $1 } END { print sum + 0 }'; }
  rows+=("$(printf '%-8s %7s %7s %6ss' "$version" "$(count passed)" "$(count failed)" "$((SECONDS - start))")")
done
printf '\n%-8s %7s %7s %7s\n' Envoy passed failed time
printf '%s\n' "${rows[@]}"
exit "$failed"
