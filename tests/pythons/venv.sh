#!/bin/bash
# usage: venv.sh PYTHON FOLDER [GROUP...]
# A virtual environment of PYTHON in FOLDER with what the package needs and the named dependency groups of pyproject.toml
# (default: test). The package itself is not installed: the tests and the tools run it out of the checkout.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1 folder=$2
shift 2
[ $# -gt 0 ] || set -- test
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check -qq --no-input)
"${pip[@]}" install --upgrade 'pip>=25.1'
"$folder/bin/python" - >"$folder/requirements.txt" <<'PY'
try:
    import tomllib
except ImportError:
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")
PY
groups=()
for group in "$@"; do groups+=(--group "$group"); done
"${pip[@]}" install -r "$folder/requirements.txt" "${groups[@]}"
