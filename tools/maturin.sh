#!/usr/bin/env bash
# What builds the wheels, as packages of Python: maturin, and zig, which links for old versions of glibc and for other processors.
set -euo pipefail
cd "$(dirname "$0")/.."

requirements=tools/dist/requirements.txt
stamp=.tools/maturin/requirements.txt
if cmp -s "$requirements" "$stamp"; then echo "maturin and zig: there"; exit 0; fi
echo "installing maturin and zig"
[[ -x .tools/maturin/bin/python ]] || python3 -m venv .tools/maturin
.tools/maturin/bin/python -m pip install --quiet --requirement "$requirements"
cp "$requirements" "$stamp"
