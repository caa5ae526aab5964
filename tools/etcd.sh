#!/usr/bin/env bash
# Two etcds: the one that Debian has (3.4, the oldest that is supported) and a new one, built from source as tools/etcd/go.mod pins it.
# Debian's package is unpacked, not installed: installing it starts a service on port 2379.
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ! -x .tools/etcd/debian/etcd ]]; then
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || { echo "missing: apt-get, for Debian's etcd" >&2; exit 1; }
  mkdir -p .tools/etcd/debian
  scratch=$(mktemp -d .tools/fetch-XXXXXX)
  trap 'rm -rf "$scratch"' EXIT
  echo "fetching Debian's etcd"
  # The lists of packages may be older than what the mirror has; as root they can be fetched anew.
  (cd "$scratch" && apt-get download -qq etcd-server 2>/dev/null) || {
    [[ $(id -u) == 0 ]] && apt-get update -qq
    (cd "$scratch" && apt-get download -qq etcd-server)
  }
  dpkg-deb --extract "$scratch"/etcd-server_*.deb "$scratch/unpacked"
  mv "$scratch/unpacked/usr/bin/etcd" .tools/etcd/debian/etcd
  rm -rf "$scratch"
  trap - EXIT
fi

tools/go.sh etcd etcd/3.7/etcd "$(sed -n 's/^require go.etcd.io\/etcd\/server\/v3 v//p' tools/etcd/go.mod)" .
