"""Training: it learns what is trained and only that, reproducibly, and survives being killed."""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import SMALL, model_of

from eeflib.batches import choose_loss, epoch_steps, lean_loss, own_loss, steps_between
from eeflib.config import TrainConfig
from eeflib.errors import DataError, PrerequisiteError
from eeflib.masking import EncodedSet, encode_samples
from eeflib.optimise import learning_rate
from eeflib.policies.decoding import Decoder
from eeflib.prompts import get_format
from eeflib.records import Sample, Step
from eeflib.training import train

FULL = TrainConfig(
    method="full", learning_rate=3e-3, batch_size=4, max_steps=12, schedule="constant", warmup=0.1
)
LORA = replace(FULL, method="lora", rank=4, alpha=8, learning_rate=2e-2)


@pytest.fixture(scope="module")
def tok():
    return tiny_models.tokenizer("chatml")


@pytest.fixture(scope="module")
def data(tok) -> EncodedSet:
    return encoded(tok)


def encoded(tok) -> EncodedSet:
    """Episodes of three steps: the harmful first and the unknown second are context."""
    rng = random.Random(0)
    samples = []
    for i in range(24):
        page = " ".join(f"w{rng.randint(0, 40)}" for _ in range(rng.randint(3, 30)))
        steps = (
            Step(page, "click[B0002]", "teacher"),
            Step("page two", "look", "teacher"),
            Step("page three", "search[red shirt]", "student"),
        )
        labels = ("harmful", "unknown", "student")
        samples.append(
            Sample(f"e{i}", "t", "webshop", "buy", "recovery", steps, (False, False, True), labels)
        )
    return encode_samples(samples, get_format("act", "webshop"), tok)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != "timing.json"}


def likelihood(model, tok, data: EncodedSet, text: str) -> float:
    """Mean log-probability of `text` as the first reply to the first observation."""
    from eeflib.policies.base import Message
    from eeflib.policies.chat import Chat

    turns = [Message("user", "Instruction: buy\nw1 w2"), Message("assistant", text)]
    found = Chat.of(tok).encode(turns)
    ids = torch.tensor([found.ids.tolist()])
    with torch.no_grad():
        logp = model(input_ids=ids).logits.log_softmax(-1)[0]
    at = np.flatnonzero((found.message == 1) & ~found.closes)
    return float(np.mean([logp[i - 1, ids[0, i]].item() for i in at]))


def test_the_trained_action_becomes_likely_and_the_masked_ones_do_not(tok, data, tmp_path):
    from transformers import AutoModelForCausalLM

    base = tiny_models.llama(len(tok))
    result = train((base, tok), data, replace(FULL, max_steps=60), tmp_path / "out", progress=False)
    assert np.mean(result.losses[-5:]) < 0.2 * result.losses[0]
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    gain = {
        action: likelihood(tuned, tok, data, action) - likelihood(base, tok, data, action)
        for action in ("search[red shirt]", "click[B0002]", "look")
    }
    assert gain["search[red shirt]"] > 3
    assert gain["click[B0002]"] < 0
    assert gain["look"] < 0


def test_no_kernel_that_is_built_anew_for_every_length_trains_or_samples(tok, data, tmp_path):
    """cuDNN's attention made a token of a reply take 115 ms on an H100, whatever the batch."""
    model, allowed = tiny_models.llama(len(tok)), set()
    was = torch.backends.cuda.cudnn_sdp_enabled()
    seen = torch.backends.cuda.cudnn_sdp_enabled
    model.model.layers[0].register_forward_hook(lambda *_: allowed.add(seen()))
    decoder = Decoder(model)
    decoder.begin(["a"], [np.array([5, 6, 7])])
    decoder.logits([0], [[]])
    assert allowed == {False}
    allowed.clear()
    base = model, tok  # trained in a copy, hooks and all
    train(base, data, replace(FULL, max_steps=1), tmp_path / "model", progress=False)
    assert allowed == {False}
    assert torch.backends.cuda.cudnn_sdp_enabled() == was


def test_reported_losses_and_counts_are_those_of_the_data(tok, data, tmp_path):
    """The first loss equals a plain, one-by-one computation with transformers' own loss."""
    base = tiny_models.llama(len(tok))
    config = replace(FULL, max_steps=1, batch_size=3, accumulation=4)
    result = train((base, tok), data, config, tmp_path / "out", progress=False)
    first = next(steps_between([e.length for e in data], 12, config.seed, 0, 1))
    assert len(first) == 12
    total, count = 0.0, 0
    for i in first:
        item = data.items[i]
        ids = torch.tensor(item.input_ids[None].astype("int64"))
        labels = torch.tensor(item.labels[None].astype("int64"))
        with torch.no_grad():
            total += float(base(input_ids=ids, labels=labels).loss) * item.trained_tokens
        count += item.trained_tokens
    assert result.losses[0] == pytest.approx(total / count, rel=1e-5)
    assert result.trained_tokens == count
    assert result.tokens == sum(data.items[i].length for i in first)


@pytest.mark.parametrize("config", [FULL, LORA, replace(LORA, dropout=0.3)])
def test_equal_trainings_write_equal_bytes_and_leave_the_base_alone(tok, data, tmp_path, config):
    base = tiny_models.llama(len(tok))
    before = copy.deepcopy(base.state_dict())
    state = torch.random.get_rng_state()
    for name in ("a", "b"):
        train((base, tok), data, config, tmp_path / name, progress=False)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert any(n.endswith(".safetensors") for n in files(tmp_path / "a"))
    assert torch.equal(state, torch.random.get_rng_state()), "global randomness is untouched"
    after = base.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.requires_grad and p.grad is None for p in base.parameters())
    other = replace(config, seed=1)
    train((base, tok), data, other, tmp_path / "c", progress=False)
    weights = "model.safetensors" if config.method == "full" else "adapter_model.safetensors"
    assert files(tmp_path / "a")[weights] != files(tmp_path / "c")[weights]


def test_a_lora_adapter_changes_the_outputs_and_loads_again(tok, data, tmp_path):
    from peft import PeftModel

    base = tiny_models.llama(len(tok), initializer_range=0.3)  # an adapter has something to steer
    result = train((base, tok), data, replace(LORA, max_steps=40), tmp_path / "out", progress=False)
    assert result.losses[-1] < 0.7 * result.losses[0]
    plain = likelihood(base, tok, data, "search[red shirt]")
    tuned = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "out"))
    assert likelihood(tuned, tok, data, "search[red shirt]") > plain + 1
    card = json.loads((tmp_path / "out" / "eef_adapter.json").read_text())
    assert card["method"] == "lora"
    assert card["config"]["rank"] == 4
    assert card["base_fingerprint"]
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.chat_template == tok.chat_template


LINEAR = {
    "Llama": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "Phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "GPT2": ("c_attn", "c_proj", "c_fc"),
}


@pytest.mark.parametrize("family", LINEAR)
def test_an_adapter_is_on_every_linear_layer_of_any_architecture(tok, data, tmp_path, family):
    from safetensors.torch import load_file

    gpt2 = {"n_embd": 32, "n_layer": 4, "n_head": 4}
    settings = gpt2 if family == "GPT2" else {**SMALL, "num_hidden_layers": 4}
    base = (model_of(family, settings, len(tok)), tok)
    config = replace(LORA, max_steps=2)
    train(base, data, config, tmp_path / "all", progress=False)
    named = replace(config, target_modules=LINEAR[family])
    train(base, data, named, tmp_path / "named", progress=False)
    found, wanted = files(tmp_path / "all"), files(tmp_path / "named")
    assert found["adapter_model.safetensors"] == wanted["adapter_model.safetensors"]
    if family == "Llama":  # of other names some are shortened by peft, with the same meaning
        assert found["adapter_config.json"] == wanted["adapter_config.json"]
    filled = load_file(tmp_path / "all" / "adapter_model.safetensors")
    layers = {key.split(".lora_")[0].rpartition(".")[2] for key in filled}
    assert layers == set(LINEAR[family])


def test_training_can_go_on_from_an_adapter(tok, data, tmp_path):
    from peft import PeftModel

    base = tiny_models.llama(len(tok), initializer_range=0.3)
    first = train((base, tok), data, LORA, tmp_path / "a", progress=False)
    tuned = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "a"))
    before = copy.deepcopy(tuned.state_dict())
    for number, config in enumerate((LORA, FULL)):
        out = tmp_path / f"b{number}"
        second = train((tuned, tok), data, config, out, progress=False)
        assert second.losses[0] < np.mean(first.losses[-4:]) + 0.3 < first.losses[0]
        assert np.mean(second.losses[-3:]) < second.losses[0]
    assert all(torch.equal(before[k], v) for k, v in tuned.state_dict().items())
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path / "b0"))
    action = "search[red shirt]"
    assert likelihood(again, tok, data, action) > likelihood(tuned, tok, data, action)


def test_a_killed_training_goes_on_and_ends_as_if_nothing_had_happened(tok, data, tmp_path):
    base = tiny_models.llama(len(tok))
    base.save_pretrained(tmp_path / "base")
    tok.save_pretrained(tmp_path / "base")
    config = replace(LORA, max_steps=100, checkpoint_seconds=0.0, dropout=0.1, schedule="cosine")
    script = tmp_path / "job.py"
    script.write_text(
        "import tiny_models\n"
        "from test_train import encoded\n"
        "from eeflib.config import TrainConfig\nfrom eeflib.training import train\n"
        f"config = TrainConfig.from_dict({config.to_dict()!r})\n"
        "data = encoded(tiny_models.tokenizer('chatml'))\n"
        f"train({str(tmp_path / 'base')!r}, data, config, {str(tmp_path / 'out')!r})\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    work = tmp_path / ".out.partial"
    with (
        open(tmp_path / "stderr.txt", "w") as stderr,
        subprocess.Popen([sys.executable, str(script)], env=environment, stderr=stderr) as worker,
    ):
        deadline = time.monotonic() + 300
        while not (work / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
            assert worker.poll() is None, (tmp_path / "stderr.txt").read_text()
            time.sleep(0.005)
        worker.send_signal(signal.SIGKILL)
    assert not (tmp_path / "out").exists(), "nothing half-written under the final name"
    short = replace(config, checkpoint_seconds=1e9)
    resumed = train(tmp_path / "base", data, short, tmp_path / "out", progress=False)
    assert 0 < resumed.resumed_at < 100
    assert not work.exists()
    whole = train((base, tok), data, short, tmp_path / "whole", progress=False)
    assert whole.resumed_at == 0
    assert whole.losses == resumed.losses
    weights = "adapter_model.safetensors"
    assert files(tmp_path / "out")[weights] == files(tmp_path / "whole")[weights]


def test_a_finished_training_is_not_repeated_and_another_one_replaces_it(tok, data, tmp_path):
    base = tiny_models.llama(len(tok))
    first = train((base, tok), data, FULL, tmp_path / "out", progress=False)
    again = train((base, tok), data, FULL, tmp_path / "out", progress=False)
    assert again.reused
    assert not first.reused
    assert replace(again, reused=False) == first
    other = train((base, tok), data, replace(FULL, max_steps=2), tmp_path / "out", progress=False)
    assert (other.steps, other.reused) == (2, False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


@contextmanager
def files_of_at_most(size: int):
    """The kernel takes writes up to `size` bytes of a file and then fails, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [12_000, 2_000, 100])
@pytest.mark.parametrize("seconds", [120.0, 0.0])
def test_a_full_disk_is_one_error_and_the_same_call_goes_on(tok, data, tmp_path, size, seconds):
    config = replace(LORA, rank=2, max_steps=3, checkpoint_seconds=seconds)
    base = (tiny_models.llama(len(tok)), tok)
    with (
        files_of_at_most(size),
        pytest.raises(DataError, match=r"cannot be written .*make room .*same command again"),
    ):
        train(base, data, config, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    train(base, data, config, tmp_path / "out", progress=False)
    train(base, data, config, tmp_path / "whole", progress=False)
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_a_finished_training_with_other_weights_is_not_reused(tok, data, tmp_path):
    config = replace(LORA, max_steps=2)
    base = (tiny_models.llama(len(tok)), tok)
    train(base, data, config, tmp_path / "out", progress=False)
    path = tmp_path / "out" / "adapter_model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:-1] + bytes([whole[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="was changed or cut since it was trained"):
            train(base, data, config, tmp_path / "out", progress=False)
    path.write_bytes(whole)
    assert train(base, data, config, tmp_path / "out", progress=False).reused


def test_an_empty_set_names_the_remedy(tok, data, tmp_path):
    base = (tiny_models.llama(len(tok)), tok)
    with pytest.raises(DataError, match=r"no positives.*better teacher"):
        train(base, EncodedSet(()), FULL, tmp_path / "out")
    sample = Sample(
        "a", "t", "webshop", "buy", "s0", (Step("x", "go", "student"),), (True,), ("student",)
    )
    short = encode_samples([sample], get_format("act", "webshop"), tok, max_length=3)
    with pytest.raises(DataError, match=r"dropped: too long: 1; raise max_length"):
        train(base, short, FULL, tmp_path / "out")


def test_mistakes_are_one_clear_error_each(tok, data, tmp_path, monkeypatch):
    base = (tiny_models.llama(len(tok)), tok)
    with pytest.raises(DataError, match="pass the same max_length to encode_samples"):
        train(base, data, replace(FULL, max_length=20), tmp_path / "out")
    with pytest.raises(DataError, match="name layers of this model"):
        train(base, data, replace(LORA, target_modules=("c_attn",)), tmp_path / "out")
    assert all(p.requires_grad for p in base[0].parameters())
    with pytest.raises(DataError, match="unknown backend 'trl'"):
        train(base, data, FULL, tmp_path / "out", backend="trl")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not delete")
    with pytest.raises(DataError, match="holds no training"):
        train(base, data, FULL, tmp_path / "mine")
    with pytest.raises(DataError, match="schedule 'sine'"):
        TrainConfig(schedule="sine")
    with pytest.raises(DataError, match="rank is 0"):
        TrainConfig(rank=0)
    with pytest.raises(DataError, match=r"lower TrainConfig\.learning_rate"):
        train(base, data, replace(FULL, learning_rate=1e30), tmp_path / "out", progress=False)
    if not torch.cuda.is_available():
        with pytest.raises(PrerequisiteError, match="sees 0 NVIDIA GPUs"):
            train(base, data, replace(FULL, device="cuda"), tmp_path / "out")
        with pytest.raises(PrerequisiteError, match="bitsandbytes"):
            train("some/model", data, replace(LORA, load_in_4bit=True), tmp_path / "out")


class Short:
    """A loss that runs out of memory for more than `most` samples at once (no GPU to fill here)."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, []

    def __call__(self, model, batch):
        self.sizes.append(len(batch["input_ids"]))
        if self.sizes[-1] > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return lean_loss(model, batch)


def test_out_of_memory_halves_the_forward_pass_once(tok, data, tmp_path, monkeypatch, caplog):
    base = (tiny_models.llama(len(tok)), tok)
    config = replace(FULL, batch_size=5, accumulation=1, max_steps=4)
    plain = train(base, data, config, tmp_path / "plain", progress=False)
    short = Short(3)
    monkeypatch.setattr("eeflib.optimise.choose_loss", lambda model, ids: short)
    saved = train(base, data, config, tmp_path / "saved", progress=False)
    assert short.sizes == [5, *[3, 2] * 4]
    assert saved.losses == pytest.approx(plain.losses, rel=1e-5)
    assert caplog.text.count("3 samples at once now") == 1
    monkeypatch.setattr("eeflib.optimise.choose_loss", lambda model, ids: Short(2))
    with pytest.raises(DataError, match=r"out of memory on cpu: lower TrainConfig\.batch_size"):
        train(base, data, config, tmp_path / "none", progress=False)
    monkeypatch.setattr("eeflib.optimise.choose_loss", lambda model, ids: Short(0))
    with pytest.raises(DataError, match="gradient_checkpointing"):
        train(base, data, replace(config, batch_size=1), tmp_path / "none", progress=False)
    assert not (tmp_path / "none").exists()


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(
    tok, data, tmp_path, monkeypatch
):
    base = (tiny_models.llama(len(tok)), tok)
    config = replace(FULL, max_steps=6, checkpoint_seconds=0.0)
    calls = itertools.count(1)

    def overflows(model, batch):
        return lean_loss(model, batch) * (math.nan if next(calls) == 5 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr("eeflib.optimise.choose_loss", lambda model, ids: overflows)
        with pytest.raises(DataError, match=r"nan at step 5 .*learning_rate.*after step 3") as why:
            train(base, data, config, tmp_path / "out", progress=False)
    assert str(tmp_path / ".out.partial" / "checkpoint.safetensors") in str(why.value)
    assert not (tmp_path / "out").exists()
    # it is as good as said: the same call goes on from it
    again = train(base, data, config, tmp_path / "out", progress=False)
    whole = train(base, data, config, tmp_path / "whole", progress=False)
    assert again.resumed_at == 3
    assert again.losses == whole.losses


@pytest.mark.parametrize(
    "options", [{"gradient_checkpointing": True}, {"dtype": "bfloat16"}, {"dtype": "float16"}]
)
def test_memory_savers_give_nearly_the_same_losses(tok, data, tmp_path, options):
    base = tiny_models.llama(len(tok))
    config = replace(LORA, learning_rate=2e-3)
    plain = train((base, tok), data, config, tmp_path / "a", progress=False)
    saver = train((base, tok), data, replace(config, **options), tmp_path / "b", progress=False)
    tolerance = 1e-5 if "gradient_checkpointing" in options else 2e-2
    assert saver.losses == pytest.approx(plain.losses, rel=tolerance)


def test_an_architecture_that_caps_its_logits_takes_the_full_path(tok, data, tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=len(tok), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.0,
    )  # fmt: skip
    ids = torch.tensor(data.items[0].input_ids[None].astype("int64"))
    assert choose_loss(Gemma2ForCausalLM(config), ids) is own_loss
    assert choose_loss(tiny_models.llama(len(tok)), ids) is lean_loss


def test_a_tracker_gets_every_step_and_changes_nothing(tok, data, tmp_path, monkeypatch):
    from accelerate import tracking

    class Notes(tracking.GeneralTracker):
        """A tracker of one's own, as accelerate's documentation shows."""

        name, requires_logging_directory, seen = "notes", False, []

        def __init__(self, run_name):
            super().__init__()
            self.seen.append(run_name)

        tracker = property(lambda self: self.seen)

        def store_init_configuration(self, values):
            self.seen.append(values["rank"])

        def log(self, values, step=None, **kwargs):
            self.seen.append((step, values["loss"]))

        def finish(self):
            self.seen.append("end")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "notes", Notes)
    base = (tiny_models.llama(len(tok)), tok)
    config = replace(LORA, max_steps=3)
    plain = train(base, data, config, tmp_path / "a", progress=False)
    train(base, data, config, tmp_path / "b", report_to="notes", progress=False)
    assert Notes.seen == ["eeflib", 4, *enumerate(plain.losses), "end"]
    assert files(tmp_path / "a") == files(tmp_path / "b")
    with pytest.raises(PrerequisiteError, match="pip install trackio"):
        train(base, data, config, tmp_path / "c", report_to="trackio", progress=False)
    with pytest.raises(DataError, match=r"unknown tracker 'trackoi'.*trackio"):
        train(base, data, config, tmp_path / "c", report_to="trackoi", progress=False)


def test_each_epoch_shows_every_sample_once_in_batches_of_like_length():
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 900, 330).tolist()
    steps = epoch_steps(lengths, 16, seed=3, epoch=0)
    assert sorted(np.concatenate(steps).tolist()) == list(range(330))
    assert [s.tolist() for s in steps] != [s.tolist() for s in epoch_steps(lengths, 16, 3, 1)]
    padded = sum(max(lengths[i] for i in s) * len(s) for s in steps)
    assert padded < 1.15 * sum(lengths)


def test_the_learning_rate_rises_then_falls():
    config = TrainConfig(learning_rate=1.0, warmup=0.1)
    for schedule in ("cosine", "linear"):
        rates = [learning_rate(replace(config, schedule=schedule), s, 100) for s in range(100)]
        assert np.argmax(rates) == 10
        assert rates[10] == 1.0
        assert rates[0] < 0.1
        assert rates[-1] < 0.02
    assert learning_rate(config, 0, 1) == 1.0


def test_in_float16_a_gradient_that_overflows_is_taken_again_with_a_smaller_scale(
    tok, data, tmp_path, monkeypatch
):
    base = (tiny_models.llama(len(tok)), tok)
    config = replace(LORA, learning_rate=2e-3)
    plain = train(base, data, config, tmp_path / "a", progress=False)
    monkeypatch.setattr("eeflib.optimise._SCALE", 2.0**60)
    half = replace(config, dtype="float16")
    scaled = train(base, data, half, tmp_path / "b", progress=False)
    assert scaled.losses == pytest.approx(plain.losses, rel=0.02)
