#!/usr/bin/env bash
# Says whether a Docker engine answers, and what to do when none does.
set -euo pipefail

if error=$(docker info 2>&1 >/dev/null) && docker info --format '{{.ServerVersion}}' >/dev/null 2>&1; then
  echo "Docker engine $(docker info --format '{{.ServerVersion}}')"
else
  {
    echo "No Docker engine answers, so the tests cannot run in containers."
    echo "  ${error:-docker is not installed}"
    echo "Start one (on Debian: apt-get install docker.io; dockerd &), or set DOCKER_HOST. \`make test\` runs the same tests in processes."
  } >&2
  exit 1
fi
