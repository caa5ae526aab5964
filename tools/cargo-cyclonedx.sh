#!/usr/bin/env bash
# What lists the crates that a program is made of.
set -euo pipefail
"$(dirname "$0")"/cargo-tool.sh cargo-cyclonedx 0.5.9 2
