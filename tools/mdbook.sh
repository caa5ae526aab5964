#!/usr/bin/env bash
# What makes a site of docs/.
set -euo pipefail
"$(dirname "$0")"/cargo-tool.sh mdbook 0.5.4 3 --no-default-features --features search
