#!/usr/bin/env bash
# The licence and advisory check of dependencies, built from source.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.20.2
if [[ $(.tools/bin/cargo-deny --version 2>/dev/null) == "cargo-deny $version" ]]; then exit 0; fi
echo "building cargo-deny $version (some three minutes on two cores)"
CARGO_TARGET_DIR=.tools/build cargo install --quiet --locked --no-default-features --root .tools --version "$version" cargo-deny
rm -rf .tools/build
