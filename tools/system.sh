#!/usr/bin/env bash
# What comes from the operating system. As root on Debian or Ubuntu the missing programs are installed, else they are named.
#
#   tools/system.sh build    what building takes: a linker
#   tools/system.sh          what building and running takes
#   tools/system.sh tests    what tests and measurements take as well: Redis, memcached, OpenSSL, Node, h2load
#
# The packages redis-server and memcached may start servers on ports 6379 and 11211; they are left alone, the tests use ports of
# their own.
set -euo pipefail

what=${1:-run}
# program:package
wanted=(cc:gcc)
if [[ $what != build ]]; then
  wanted+=(
    python3:python3
    git:git
    curl:curl
  )
fi
if [[ $what == tests ]]; then
  wanted+=(
    redis-server:redis-server
    memcached:memcached
    openssl:openssl
    node:nodejs
    npm:npm
    h2load:nghttp2-client
  )
fi

missing=()
for entry in "${wanted[@]}"; do
  command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done
if [[ $what != build ]]; then
  # `python3 -m venv` needs a package of its own on Debian.
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  # curl and Go trust what this package has.
  [[ -e /etc/ssl/certs/ca-certificates.crt ]] || missing+=(ca-certificates)
fi

if ((${#missing[@]} == 0)); then echo "programs of the system (for $what): there"; exit 0; fi

if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}"
else
  echo "missing: ${missing[*]} (names of Debian's packages). Install them, or run this as root on Debian or Ubuntu." >&2
  exit 1
fi
