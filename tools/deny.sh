#!/usr/bin/env bash
# Checks licences, banned crates, sources and, where the advisory database can be had, security advisories.
set -euo pipefail
cd "$(dirname "$0")/.."

deny=.tools/bin/cargo-deny
"$deny" --log-level error check licenses bans sources
database=https://github.com/RustSec/advisory-db
if GIT_TERMINAL_PROMPT=0 timeout 60 git ls-remote "$database" HEAD >/dev/null 2>&1; then
  "$deny" --log-level error check advisories
else
  echo "advisories: not checked, for $database cannot be reached from here"
fi
