#!/bin/bash
# usage: oldest_otel.sh PYTHON
# The tests that have to do with OpenTelemetry, on the oldest releases that pyproject.toml declares (its dependency group
# oldest-otel), in an environment of their own. The extension has to be built: make build PYTHON=PYTHON.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$1
folder=.venv/$("$python" -c 'import platform; print(platform.python_version())')-oldest-otel
if [ ! -e "$folder/.made" ] || [ pyproject.toml -nt "$folder/.made" ]; then
    bash tests/pythons/venv.sh "$python" "$folder" oldest-otel
    touch "$folder/.made"
fi
shopt -s nullglob
files=(tests/unit/test_otel_*.py tests/unit/test_{histograms,observables,prometheus}*.py)
files+=(tests/e2e/test_{otlp,instrument,bill_spans,processes}.py)
exec "$folder/bin/python" -m pytest -p no:cacheprovider "${files[@]}"
