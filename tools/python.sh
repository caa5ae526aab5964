#!/usr/bin/env bash
# A Python environment with the unmodified clients that tests run, of the versions in integration-tests/sdk/requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=integration-tests/sdk/requirements.txt
stamp=.tools/python/requirements.txt
if cmp -s "$requirements" "$stamp"; then echo "clients for Python: there"; exit 0; fi
echo "installing the Dapr SDK and other clients for Python"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "missing: Python 3.10 or newer" >&2; exit 1; }
[[ -x .tools/python/bin/python ]] || python3 -m venv .tools/python
.tools/python/bin/python -m pip install --quiet --requirement "$requirements"
cp "$requirements" "$stamp"
