#!/usr/bin/env bash
# The unmodified Dapr SDK for JavaScript, of the versions in integration-tests/sdk/package-lock.json.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=integration-tests/sdk/package-lock.json
if cmp -s "$lock" .tools/node/package-lock.json && [[ -d .tools/node/node_modules ]]; then echo "Dapr's SDK for JavaScript: there"; exit 0; fi
node -e 'process.exit(parseInt(process.versions.node) >= 18 ? 0 : 1)' || { echo "missing: Node 18 or newer" >&2; exit 1; }
echo "installing the Dapr SDK for JavaScript"
rm -rf .tools/node
mkdir -p .tools/node
cp integration-tests/sdk/package.json .tools/node/
cp "$lock" .tools/node/package-lock.json
if ! npm ci --prefix .tools/node --silent --no-audit --no-fund --ignore-scripts; then
  rm -rf .tools/node
  echo "npm ci failed in a copy of integration-tests/sdk" >&2
  exit 1
fi
