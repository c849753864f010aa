#!/usr/bin/env bash
# Installs what is named into the virtual environment VENV, at the versions of constraints.txt: tools/install.sh VENV ARGUMENTS
#
# uv takes a third of pip's time. Where there is no uv for the machine, or where it finds no index (it does not read pip's
# settings, which may name a company's own), pip does the same.
set -euo pipefail
venv=$1
shift
pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt)
# a folder of its own: an unpack folder shared with others has been seen to vanish under pip
mkdir -p "$venv/tmp"
trap 'rm -rf "$venv/tmp"' EXIT
export TMPDIR="$PWD/$venv/tmp"
if "${pip[@]}" uv 2>/dev/null; then
  export UV_FIND_LINKS=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
  if [[ -n ${PIP_INDEX_URL:-} ]]; then export UV_DEFAULT_INDEX=$PIP_INDEX_URL; fi
  # compiled here, on all cores: the first process to import would do it on one
  uv=("$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --constraint constraints.txt)
  if "${uv[@]}" "$@"; then exit; fi
fi
"${pip[@]}" "$@"
