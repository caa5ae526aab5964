#!/usr/bin/env bash
# The licence and advisory check of dependencies.
set -euo pipefail
"$(dirname "$0")"/cargo-tool.sh cargo-deny 0.20.2 3 --no-default-features
