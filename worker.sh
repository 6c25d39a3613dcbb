#!/bin/sh
# Starts a worker and says whether it lives. What it answers without Python costs milliseconds.
#
#   worker.sh [run]    wait for the database, then become `reactor run`, which gets all signals
#   worker.sh health   exit 0 if the worker gave a sign of life in the last 30 seconds
#   worker.sh ...      anything else is a command of `reactor`
#
#   STARTUP_TIMEOUT_SECONDS   60   how long `run` waits for the database
#   HEARTBEAT_FILE                 what the worker touches, and `health` looks at
set -eu

HEALTHY_SECONDS=30
home=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

find_reactor() {
    if [ -x "$home/.venv/bin/reactor" ]; then
        echo "$home/.venv/bin/reactor"
    elif ! command -v reactor; then
        echo "worker.sh: no reactor on the PATH or in $home/.venv/bin" >&2
        return 1
    fi
}

# In the background, so that a signal need not wait for the check to end: a shell with pid 1 would not even get it.
start_up() {
    "$reactor" check --startup >&2 &
    check=$!
    trap 'kill "$check" 2>/dev/null || true; exit 0' TERM
    trap 'kill "$check" 2>/dev/null || true; exit 130' INT
    wait "$check" || exit $?
    trap - TERM INT
}

health() {
    file=${HEARTBEAT_FILE:-${TMPDIR:-/tmp}/reactor-heartbeat}
    # GNU's stat, or else that of BSD and macOS.
    beat=$(stat -c %Y "$file" 2>/dev/null || stat -f %m "$file" 2>/dev/null) || {
        echo "no heartbeat: $file is not there" >&2
        return 1
    }
    age=$(($(date +%s) - beat))
    if [ "${age#-}" -gt "$HEALTHY_SECONDS" ]; then
        echo "the last heartbeat was $age s ago: $file" >&2
        return 1
    fi
}

case ${1:-run} in
    health)
        health
        ;;
    run)
        [ $# -eq 0 ] || shift
        reactor=$(find_reactor)
        start_up
        exec "$reactor" run "$@"
        ;;
    *)
        reactor=$(find_reactor)
        exec "$reactor" "$@"
        ;;
esac
