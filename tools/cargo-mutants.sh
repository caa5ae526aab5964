#!/usr/bin/env bash
# cargo-mutants, which changes code to see whether a test notices, built from source.
set -euo pipefail
cd "$(dirname "$0")/.."

version=27.1.0
if [[ $(.tools/bin/cargo-mutants --version 2>/dev/null) == "cargo-mutants $version" ]]; then exit 0; fi
echo "building cargo-mutants $version (some minutes on two cores)"
CARGO_TARGET_DIR=.tools/build cargo install --quiet --locked --root .tools --version "$version" cargo-mutants
rm -rf .tools/build
