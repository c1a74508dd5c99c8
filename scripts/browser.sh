#!/bin/sh
# Make sure that the tests in tests/browser find a Chromium: one on PATH, else the distribution's
# (Debian and Ubuntu, as root), else the one that playwright fetches.
set -eu
cd "$(dirname "$0")/.."
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing Chromium for the browser tests"
    export DEBIAN_FRONTEND=noninteractive
    (apt-get install -yqq --no-install-recommends chromium ||
        { apt-get update -qq && apt-get install -yqq --no-install-recommends chromium; }) \
        >/dev/null 2>&1 && exit 0
fi
if .venv/bin/python -m playwright install chromium-headless-shell >/dev/null 2>&1; then
    exit 0
fi
echo "no Chromium was found, and none could be installed: install Chromium or Chrome" >&2
exit 1
