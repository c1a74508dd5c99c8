"""The tiny student as shipped: small, safe to open, reads every word of its world, can be tuned."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eeflib import data
from eeflib.envs.webshop.shop import OPTION_VALUES
from eeflib.errors import PrerequisiteError
from eeflib.masking import encode_samples
from eeflib.methods import get_method
from eeflib.policies.loading import load_student
from eeflib.policies.scripted import FLAWLESS, ScriptedShopper
from eeflib.prompts import get_format
from eeflib.records import Trajectory
from eeflib.rollout import Episode, run_episodes
from eeflib.selection import select
from eeflib.world import World, webshop

ACT = get_format("act", "webshop")
SCRIPTS = Path(__file__).parents[2] / "scripts" / "tiny"


@pytest.fixture
def scripts() -> Iterator[None]:
    """The pretraining scripts can be imported."""
    sys.path.insert(0, str(SCRIPTS))
    yield
    sys.path.remove(str(SCRIPTS))
    for name in ("exercises", "tokenizer"):
        sys.modules.pop(name, None)


@cache
def world() -> World:
    return webshop(51, train=24, test=1)


@cache
def positives() -> tuple[Trajectory, ...]:
    """Solved trajectories of a shopper that makes no mistakes."""
    shopper = ScriptedShopper(FLAWLESS, options=OPTION_VALUES)
    tasks = world().split("train")
    return tuple(
        run_episodes(
            [Episode(t, "teacher") for t in tasks],
            shopper,
            world().make_env,
            get_format("react", "webshop"),
            actor="teacher",
            seed=0,
        )
    )


@cache
def student() -> tuple[Any, Any]:
    return load_student("tiny", device="cpu")


def test_what_is_shipped_is_small_and_cannot_run_code():
    files = sorted(f for f in data.path("tiny").rglob("*") if f.is_file())
    assert {f.suffix for f in files} <= {".json", ".safetensors", ".jinja"}
    assert (data.path("tiny") / "model.safetensors").stat().st_size <= 3_000_000
    assert sum(f.stat().st_size for f in files) < 4_000_000


def test_it_loads_as_any_transformers_model_and_always_the_same():
    import torch

    model, tokenizer = student()
    again, _ = load_student("tiny", device="cpu")
    for (name, a), (_, b) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert a.dtype == torch.float32, name
        assert torch.equal(a, b), name
        assert torch.isfinite(a).all(), name
    assert model.config.model_type == "llama"
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert model.config.eos_token_id == tokenizer.eos_token_id


def test_its_tokenizer_is_the_one_its_script_makes(scripts):
    from tokenizer import build_tokenizer  # type: ignore[import-not-found]

    shipped = student()[1]
    built = build_tokenizer()
    assert built.get_vocab() == shipped.get_vocab(), "the words of the store changed: pretrain anew"
    text = "Instruction: find me a sofa in [SEP] B0BITONUVO [SEP] Next > [SEP] $12.0 É"
    assert built(text)["input_ids"] == shipped(text)["input_ids"]


def test_it_knows_every_word_of_the_store():
    tokenizer = student()[1]
    unknown = tokenizer.convert_tokens_to_ids("<|unk|>")
    tokens = words = 0
    for t in positives():
        assert t.solved
        for step in t.steps:
            for text in (step.observation, step.action):
                ids = tokenizer(text)["input_ids"]
                assert unknown not in ids, text
                tokens, words = tokens + len(ids), words + len(text.split())
    assert tokens < 2 * words  # words, not letters


def test_odd_text_is_read_without_a_fault():
    tokenizer = student()[1]
    for text in ("", " ", "\x00\x07", "<|end|><|assistant|>", "étagère 漢字 🛋", "x" * 5000):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert all(0 <= i < len(tokenizer) for i in ids)


def test_an_episode_fits_its_positions_with_room_to_spare():
    model, tokenizer = student()
    found = select(get_method("SFT"), world().split("train"), positives()).samples
    data = encode_samples(found, ACT, tokenizer, max_length=model.config.max_position_embeddings)
    assert not data.dropped
    assert len(data) == len(positives())
    longest = max(item.length for item in data)
    assert 2 * longest < model.config.max_position_embeddings
    for item in data:
        assert 3 < item.trained_tokens < 0.5 * item.length


def test_it_was_pretrained_without_shopping(scripts):
    from exercises import make_document  # type: ignore[import-not-found]

    rng = np.random.default_rng(0)
    documents = [make_document(rng) for _ in range(200)]
    turns = [turn for d in documents for turn in d.turns]
    assert len(turns) > 200
    for shown, answer, _ in turns:
        assert not answer.startswith(("click[", "search["))
        assert "Buy Now" not in answer
        assert "Your score" not in shown
    # nor did it see the wishes of a store
    instructions = {t.instruction for t in world().tasks}
    assert not [i for i in instructions for shown, _, _ in turns if i in shown]


def test_a_missing_data_file_is_named_with_the_remedy(tmp_path):
    with pytest.raises(PrerequisiteError, match=r"no/such/file is missing .*reinstall eeflib"):
        data.path("no", "such", "file")
