"""The Unsloth backend trains on a CPU through the same call as peft."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny_models
from test_train import LORA, encoded

from eeflib.errors import PrerequisiteError
from eeflib.training import train

JOB = """
import sys
from dataclasses import replace
import unsloth  # patches transformers: not in the process of the other tests
import tiny_models
from test_train import LORA, encoded
from eeflib.training import train
tok = tiny_models.tokenizer("chatml")
base = tiny_models.llama(len(tok), width=64, initializer_range=0.2)
config = replace(LORA, max_steps=3, warmup=0.0)
out = train((base, tok), encoded(tok), config, sys.argv[1], backend="unsloth", progress=False)
again = train((base, tok), encoded(tok), config, sys.argv[1], backend="unsloth", progress=False)
assert again.reused and again.losses == out.losses
"""


@pytest.mark.skipif(not importlib.util.find_spec("unsloth"), reason="Unsloth is not installed")
def test_unsloth_trains_real_steps_as_peft_does(tmp_path):

    from peft import PeftModel

    (tmp_path / "work").mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", JOB, str(tmp_path / "work" / "unsloth")],
        cwd=tmp_path / "work", env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    tok = tiny_models.tokenizer("chatml")
    base = tiny_models.llama(len(tok), width=64, initializer_range=0.2)
    config = replace(LORA, max_steps=3, warmup=0.0)
    ours = train((base, tok), encoded(tok), config, tmp_path / "peft", progress=False)
    noted, card, card_of_peft = (
        json.loads((tmp_path / name).read_text())
        for name in (
            "work/unsloth/training_log.json", "work/unsloth/eef_adapter.json",
            "peft/eef_adapter.json",
        )
    )  # fmt: skip
    assert (noted["tokens"], noted["trained_tokens"]) == (ours.tokens, ours.trained_tokens)
    # a fresh adapter changes nothing, so the first losses are the base model's on the same data
    assert noted["losses"][0] == pytest.approx(ours.losses[0], rel=1e-4)
    assert noted["losses"][-1] < 0.9 * noted["losses"][0]
    assert card["backend"] == "unsloth"
    settings = json.loads((tmp_path / "work/unsloth/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] is None, "not the folder of a copy"
    assert card["base_fingerprint"] == card_of_peft["base_fingerprint"]
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["unsloth"], "nothing littered"
    tuned = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "work" / "unsloth"))
    assert any("lora_B" in n and p.abs().sum() > 0 for n, p in tuned.named_parameters())


def test_a_missing_unsloth_names_the_two_commands(tmp_path, monkeypatch):
    tok = tiny_models.tokenizer("chatml")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match="pip install --no-deps unsloth") as caught:
        train((tiny_models.llama(len(tok)), tok), encoded(tok), LORA, tmp_path, backend="unsloth")
    assert str(caught.value).count("\npip install") == 2
