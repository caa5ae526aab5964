#!/usr/bin/env bash
# What changes code to see whether a test notices.
set -euo pipefail
"$(dirname "$0")"/cargo-tool.sh cargo-mutants 27.1.0 4
