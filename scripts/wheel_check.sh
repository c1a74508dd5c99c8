#!/bin/sh
# Run the notebooks from the wheel alone, each in an empty folder, however eeflib was installed.
#
# usage: scripts/wheel_check.sh [-w "venv user prefix target"] [NAME ...]
#
#   -w    which ways to install it; all four if not given
#   NAME  the notebooks whose name begins so, e.g. 00 02; all of them if none is given
#
# Needs .venv (`make setup`), whose packages are used, so that only eeflib itself is installed. Its
# editable eeflib is not: .pth files of a folder on PYTHONPATH are not read. Prints a line a notebook.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
ways="venv user prefix target"
while getopts w: option; do
    case $option in
        w) ways=$OPTARG ;;
        *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))

own=$root/.venv/bin/python
[ -x "$own" ] || { echo "no .venv: run make setup first" >&2; exit 2; }
ask() { # PYTHON EXPRESSION -> its value
    "$1" -c "import sys, sysconfig; print($2)"
}
base=$(ask "$own" sys._base_executable)
packages=$(ask "$own" 'sysconfig.get_path("purelib")')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH EEFLIB_RUNS || true
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_WARN_SCRIPT_LOCATION=1
# user: into a folder of ours, not that of the system, so what guards the system may be overruled
export PIP_BREAK_SYSTEM_PACKAGES=1

mkdir "$work/src"
cp -R eeflib pyproject.toml README.md LICENSE "$work/src"
"$own" -m pip wheel --quiet --no-deps --no-build-isolation -w "$work" "$work/src"
rm -r "$work/src"
wheel=$(echo "$work"/*.whl)

mkdir "$work/empty"
cat >"$work/notebooks.py" <<'END'
import sys
import tempfile
import time
from pathlib import Path

root, way, *wanted = sys.argv[1:]
sys.path.insert(0, f"{root}/tests/notebooks")  # of this process, not of the notebooks' kernels

import execute

failed = []
for name in execute.names():
    if wanted and not name.startswith(tuple(wanted)):
        continue
    with tempfile.TemporaryDirectory() as folder:
        began, result = time.perf_counter(), "ok"
        try:
            execute.run(name, Path(folder))
        except Exception as exc:
            failed.append(name)
            result = f"FAILED\n{exc}"
        print(f"{way:6} {name:32} {time.perf_counter() - began:4.0f} s  {result}", flush=True)
sys.exit(bool(failed))
END

failed=0
run() { # PYTHON PYTHONPATH [NAME ...]: with the eeflib that was installed into $place
    python=$1
    export PYTHONPATH="$2"
    shift 2
    found=$(cd "$work/empty" && ask "$python" '__import__("eeflib").__file__')
    case $found in
        "$place"/*)
            "$python" "$work/notebooks.py" "$root" "$way" "$@" 2>"$work/stderr" ||
                { failed=1 && tail -n 5 "$work/stderr"; }
            ;;
        *) failed=1 && echo "$way: FAILED, eeflib came from $found" ;;
    esac
    unset PYTHONPATH
}

for way in $ways; do
    place=$work/$way
    case $way in
        venv)
            "$base" -m venv "$place"
            "$place/bin/python" -m pip install --quiet --no-deps --no-index "$wheel"
            echo "$packages" >"$(ask "$place/bin/python" 'sysconfig.get_path("purelib")')/deps.pth"
            run "$place/bin/python" "" "$@"
            ;;
        user)
            export PYTHONUSERBASE="$place"
            "$base" -m pip install --quiet --no-deps --no-index --user --ignore-installed "$wheel"
            run "$base" "$packages" "$@"
            unset PYTHONUSERBASE
            ;;
        prefix)
            "$base" -m pip install --quiet --no-deps --no-index --ignore-installed \
                --prefix "$place" "$wheel"
            inside=$(dirname "$(find "$place" -type d -name eeflib)")
            run "$base" "$inside:$packages" "$@"
            ;;
        target)
            "$base" -m pip install --quiet --no-deps --no-index --target "$place" "$wheel"
            run "$base" "$place:$packages" "$@"
            ;;
        *) echo "unknown way: $way" >&2 && exit 2 ;;
    esac
done
exit $failed
