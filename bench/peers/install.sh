#!/bin/sh
# Installs what `make bench` compares throughput with into bench/.peers, and nowhere else: PYTHON
set -eu
python=$(realpath -s "$1")
cd "$(dirname "$0")"
mkdir -p ../.peers
"$python" -m venv --clear ../.peers/venv
../.peers/venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
if ! command -v npm >/dev/null; then
  echo "There is no npm: Agenda and Graphile Worker will be missing" >&2
  exit
fi
cp package.json package-lock.json ../.peers
npm ci --prefix ../.peers --no-audit --no-fund --loglevel=error
