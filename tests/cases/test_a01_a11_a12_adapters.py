"""Cases a01, a11 and a12: an adapter is what it says, or it is refused by name."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from eeflib.errors import DataError
from eeflib.policies.families import bare_tokenizer, known_families
from eeflib.policies.loading import load_student

IDS = torch.arange(5, 40)[None]
FILE = "adapter_model.safetensors"


def llama(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    )


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.fixture
def tokenizer():
    return bare_tokenizer(known_families()["Qwen2.5"][1])


@pytest.fixture
def base(tmp_path, tokenizer):
    folder = tmp_path / "Toy-1B-Instruct"
    llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapter(base, folder, *, trained_for="", tokenizer=None):
    """A LoRA adapter with weights that matter, for `base`."""
    model = load_student(base)[0]
    if tokenizer is not None:
        model.resize_token_embeddings(len(tokenizer))
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.3)
    tuned.peft_config["default"].base_model_name_or_path = trained_for or str(base)
    tuned.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return logits(tuned)


def renamed(old, new):
    def change(weights):
        return {k.replace(old, new): w for k, w in weights.items()}

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # as saved under a multimodal wrapper's class
        (renamed(".model.layers", ".model.language_model.layers"), "language_model.*has no place"),
        (renamed("q_proj", "query"), "query.*has no place"),
        (lambda w: {k: v for k, v in w.items() if "layers.1" not in k}, "layers.1.*is missing"),
    ],
)
def test_an_adapter_whose_tensors_do_not_land_is_refused_by_name(base, tmp_path, change, words):
    tuned = adapter(base, tmp_path / "lora")
    loaded = load_student(base, adapter=tmp_path / "lora")[0]
    assert torch.allclose(logits(loaded), tuned, atol=1e-4)
    assert not torch.allclose(tuned, logits(load_student(base)[0]), atol=1e-2)
    weights = change(load_file(tmp_path / "lora" / FILE))
    save_file(weights, tmp_path / "lora" / FILE, metadata={"format": "pt"})
    with pytest.raises(DataError, match=words):
        load_student(base, adapter=tmp_path / "lora")


def test_the_adapter_s_own_tokenizer_is_used(base, tmp_path, tokenizer):
    other = bare_tokenizer(tokenizer.chat_template + "{# mine #}")
    adapter(base, tmp_path / "other", tokenizer=other)
    assert "mine" in load_student(base, adapter=tmp_path / "other")[1].chat_template
    tokenizer.add_tokens(["<act>", "</act>"], special_tokens=True)
    tuned = adapter(base, tmp_path / "grown", tokenizer=tokenizer)
    model, found = load_student(tmp_path / "grown")
    assert len(found) == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert found.encode("<act>") == tokenizer.encode("<act>")
    old = tuned.shape[-1] - 2
    assert torch.allclose(logits(model)[..., :old], tuned[..., :old], atol=1e-4)


def test_a_base_without_a_template_takes_the_adapter_s(base, tmp_path, tokenizer):
    adapter(base, tmp_path / "lora", tokenizer=tokenizer)
    (base / "chat_template.jinja").unlink()
    assert load_student(base)[1].chat_template is None
    assert load_student(base, adapter=tmp_path / "lora")[1].chat_template


@pytest.mark.parametrize(
    "name",
    [
        "unsloth/toy-1b-instruct-unsloth-bnb-4bit",
        "unsloth/Toy-1B-Instruct-bnb-4bit",
        "/content/drive/MyDrive/models/snapshots/0123abcd",
    ],
)
def test_an_adapter_of_a_repack_is_taken_and_that_is_said(base, tmp_path, name, caplog):
    tuned = adapter(base, tmp_path / "lora", trained_for=name)
    model = load_student(base, adapter=tmp_path / "lora")[0]
    assert torch.allclose(logits(model), tuned, atol=1e-4)
    assert name in caplog.text
