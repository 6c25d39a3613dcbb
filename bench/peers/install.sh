#!/bin/sh
# Installs what `make bench` compares reactor with, pinned, into bench/.peers and nowhere else.
# Servers are the system's: redis-server, PostgreSQL, Node.js (docs: bench/peers/README.md).
set -eu
cd "$(dirname "$0")"
python=$1
mkdir -p ../.peers
cp package.json package-lock.json ../.peers
npm ci --prefix ../.peers --no-audit --no-fund
"$python" -m venv --clear ../.peers/venv
../.peers/venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
