"""The Unsloth backend trains on a CPU through the same call, in a process of its own."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from dataclasses import replace

import pytest
import tiny_models

from eeflib.config import TrainConfig
from eeflib.errors import PrerequisiteError, ProviderError
from eeflib.masking import encode_samples
from eeflib.prompts import get_format
from eeflib.records import Sample, Step
from eeflib.training import train

CONFIG = TrainConfig(
    rank=4, alpha=8, learning_rate=2e-2, max_steps=3, batch_size=2, accumulation=2,
    schedule="constant", warmup=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    tok = tiny_models.tokenizer("chatml")
    samples = [
        Sample(
            f"e{i}", "t", "webshop", "buy", "s0",
            (Step("page " * (i + 1), "click[B0002]", "teacher"), Step("p2", "look", "student")),
            (False, True), ("harmful", "student"),
        )
        for i in range(8)
    ]  # fmt: skip
    data = encode_samples(samples, get_format("act", "webshop"), tok)
    return tiny_models.llama(len(tok), width=64, initializer_range=0.2), tok, data


def test_unsloth_trains_real_steps_as_peft_does(parts, tmp_path, monkeypatch):
    from peft import PeftModel

    base, tok, data = parts
    monkeypatch.chdir(tmp_path)
    ours = train((base, tok), data, CONFIG, tmp_path / "peft", progress=False)
    unsloth = train(
        (base, tok), data, CONFIG, tmp_path / "unsloth", backend="unsloth", progress=False
    )
    assert (unsloth.steps, unsloth.tokens, unsloth.trained_tokens) == (
        3, ours.tokens, ours.trained_tokens,
    )  # fmt: skip
    # a fresh adapter changes nothing, so the first losses are the base model's on the same data
    assert unsloth.losses[0] == pytest.approx(ours.losses[0], rel=1e-4)
    assert unsloth.losses[-1] < 0.9 * unsloth.losses[0]
    card = json.loads((tmp_path / "unsloth" / "eef_adapter.json").read_text())
    assert card["backend"] == "unsloth"
    assert (
        card["base_fingerprint"]
        == json.loads((tmp_path / "peft" / "eef_adapter.json").read_text())["base_fingerprint"]
    )
    assert "unsloth" not in sys.modules, "the caller's transformers stays unpatched"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["peft", "unsloth"], "nothing littered"
    tuned = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "unsloth"))
    assert any("lora_B" in n and p.abs().sum() > 0 for n, p in tuned.named_parameters())


def test_a_missing_unsloth_names_the_two_commands(parts, tmp_path, monkeypatch):
    base, tok, data = parts
    monkeypatch.setitem(sys.modules, "unsloth", None)  # what find_spec sees when it is absent
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match="pip install --no-deps unsloth") as caught:
        train((base, tok), data, CONFIG, tmp_path / "out", backend="unsloth")
    assert str(caught.value).count("\npip install") == 2


def test_an_error_in_the_worker_reaches_the_caller_with_its_type(parts, tmp_path):
    base, tok, data = parts
    config = replace(CONFIG, device="cuda:99")
    with pytest.raises(PrerequisiteError, match=r"device = 'cuda:99'"):
        train((base, tok), data, config, tmp_path / "out", backend="unsloth", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_worker_that_dies_is_reported(parts, tmp_path, monkeypatch):
    base, tok, data = parts
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ProviderError, match="exit code 1 and no result"):
        train((base, tok), data, CONFIG, tmp_path / "out", backend="unsloth", progress=False)
