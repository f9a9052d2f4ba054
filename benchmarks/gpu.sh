#!/bin/sh
# What training takes on your GPU, in under ten minutes; all flags are those of gpu.py (see its --help):
#     sh benchmarks/gpu.sh
# What it prints is kept in gpu_DATE.txt in the current folder, to be pasted. PYTHON names another Python than that of .venv.
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=$here/../.venv/bin/python
    [ -x "$python" ] || python=python3
fi
if ! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)'; then
    echo "error: $python has no torch; make test installs it into .venv, or name a Python that has it: PYTHON=... sh benchmarks/gpu.sh" >&2
    exit 2
fi
kept=gpu_$(date +%Y-%m-%d_%H%M%S).txt
status=$(mktemp) || exit 2
{ "$python" -u "$here/gpu.py" "$@" 2>&1; echo $? >"$status"; } | tee "$kept"
code=$(cat "$status")
rm -f "$status"
[ "$code" = 2 ] && rm -f "$kept" || echo "kept in $kept"
exit "${code:-2}"
