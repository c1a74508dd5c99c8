"""Packed samples train as padded ones do: nothing crosses from one to the next."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from test_train import FULL, LORA, encoded
from tiny_models import SMALL, model_of

from eeflib.batches import packed, packing, padded
from eeflib.training import train

WITHIN = {
    "Llama": SMALL,
    "Mistral": {**SMALL, "sliding_window": 8},
    "Gemma3Text": {**SMALL, "head_dim": 8, "sliding_window": 8, "sliding_window_pattern": 2},
    "Phi3": SMALL,
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0, "attn_pdrop": 0},
}
ACROSS = {
    "Mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Lfm2": {**SMALL, "layer_types": ["conv", "full_attention"]},
}


@pytest.fixture(scope="module")
def tok():
    return tiny_models.tokenizer("chatml")


@pytest.mark.parametrize("name", WITHIN)
def test_a_sample_is_the_same_beside_any_other(tok, name):
    model = model_of(name, WITHIN[name], len(tok))
    first, other, second = encoded(tok).items[:3]
    other = replace(  # of the same length as the first, in other words
        first, input_ids=np.resize(other.input_ids[::-1], first.length)
    )
    before = model.config._attn_implementation
    with torch.no_grad(), packing(model, [first, second]) as collate:
        assert collate is packed
        rows = []
        for neighbour in (first, other):
            batch = packed([neighbour, second])
            del batch["labels"]
            rows.append(model(**batch, use_cache=False).logits[0])
    assert torch.equal(rows[0][first.length :], rows[1][first.length :])
    assert not torch.equal(rows[0][: first.length], rows[1][: first.length])
    assert model.config._attn_implementation == before
    with torch.no_grad():
        alone = model(torch.tensor(second.input_ids[None].astype("int64"))).logits[0]
        batch = padded([first, second])
        beside = model(**batch).logits[1, : second.length]
    torch.testing.assert_close(rows[0][first.length :], alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma3Text"])
@pytest.mark.parametrize("config", [FULL, replace(LORA, gradient_checkpointing=True)])
def test_packed_steps_have_the_losses_of_padded_ones(tok, tmp_path, name, config):
    model, data = model_of(name, WITHIN[name], len(tok)), encoded(tok)
    config = replace(config, learning_rate=1e-3, accumulation=2, max_steps=8)
    found = [
        train((model, tok), data, replace(config, packing=on), tmp_path / str(on), progress=False)
        for on in (False, True)
    ]
    assert found[1].losses == pytest.approx(found[0].losses, rel=1e-5)
    assert found[1].tokens == found[0].tokens
    assert found[1].losses[-1] < found[1].losses[0]


@pytest.mark.parametrize("name", ACROSS)
def test_what_cannot_be_packed_exactly_is_padded_and_that_is_said_once(tok, tmp_path, name, caplog):
    model, data = model_of(name, ACROSS[name], len(tok)), encoded(tok)
    config = replace(FULL, max_steps=2, packing=True)
    train((copy.deepcopy(model), tok), data, config, tmp_path / "packed", progress=False)
    said = [r for r in caplog.records if "cannot pack samples" in r.message]
    assert len(said) == 1
    plain = replace(config, packing=False)
    train((model, tok), data, plain, tmp_path / "padded", progress=False)
    weights = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("packed", "padded")]
    assert weights[0] == weights[1]
