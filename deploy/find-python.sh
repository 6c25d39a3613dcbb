#!/bin/sh
# Prints the path of a Python 3.12 or newer that can make virtual environments. What it looks at, in order: the PATH,
# pyenv's versions, and what uv has or can fetch.
set -eu

# Prints the interpreter's own path, and only if it really answers: pyenv's shims often do not, and an
# interpreter without ensurepip (Debian's, without python3-venv) cannot make a virtual environment.
answer() {
    [ -x "$1" ] || return 1
    "$1" -c 'import ensurepip, sys, venv
sys.exit(1) if sys.version_info < (3, 12) else print(sys.executable)' 2>/dev/null
}

on_path() {
    for name in python3.14 python3.13 python3.12 python3; do
        old_ifs=$IFS
        IFS=:
        for directory in $PATH; do
            IFS=$old_ifs
            answer "$directory/$name" && return 0
        done
        IFS=$old_ifs
    done
    return 1
}

in_pyenv() {
    root=$(pyenv root 2>/dev/null) || root=${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}
    for name in python3.14 python3.13 python3.12; do
        for path in "$root"/versions/*/bin/"$name"; do
            answer "$path" && return 0
        done
    done
    return 1
}

# Downloads, so it comes last and says so.
by_uv() {
    if uv=$(command -v uv); then
        uv_python "$uv"
        return
    fi
    old=$(command -v python3) || return 1
    temporary=$(mktemp -d) || return 1
    trap 'rm -rf "$temporary"' EXIT
    "$old" -m venv "$temporary/venv" >/dev/null 2>&1 || return 1
    "$temporary/venv/bin/python" -m pip install -qq uv >/dev/null 2>&1 || return 1
    uv_python "$temporary/venv/bin/uv"
}

uv_python() {
    echo "No Python 3.12 or newer here: asking uv to fetch one." >&2
    "$1" python install --quiet 3.13 >/dev/null 2>&1 || true
    path=$("$1" python find --no-project '>=3.12' 2>/dev/null) || return 1
    answer "$path"
}

on_path || in_pyenv || by_uv || {
    cat >&2 <<'END'
reactor needs Python 3.12 or newer with its venv module, and none was found. One of these gives it:
  Debian 13, Ubuntu 24.04 or newer   apt install python3 python3-venv
  Fedora                             dnf install python3.13
  macOS                              brew install python@3.13
  pyenv                              pyenv install 3.13
  uv                                 uv python install 3.13
END
    exit 1
}
