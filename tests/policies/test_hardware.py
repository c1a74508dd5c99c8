"""One decision about numbers and memory, before anything is loaded. The GPUs are made up."""

import pytest
import torch
from transformers import LlamaConfig

import eeflib as eef
from eeflib.config import TrainConfig, make_config
from eeflib.demo import forecast
from eeflib.errors import PrerequisiteError
from eeflib.policies import hardware as module
from eeflib.policies.hardware import Sizes, decide

GB = 10**9


@pytest.fixture(scope="module")
def llama_8b():
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    )
    return Sizes.of(config)


@pytest.fixture
def gpu(monkeypatch):
    """Puts a GPU into the machine."""

    def put(name: str, capability: tuple[int, int], free: int, *, bitsandbytes: bool = True):
        for what, value in {
            "is_available": True,
            "device_count": 1,
            "get_device_name": name,
            "get_device_capability": capability,
            "mem_get_info": (free, free),
            "memory_reserved": 0,
            "memory_allocated": 0,
            "is_bf16_supported": True,  # as it says of a T4
        }.items():
            monkeypatch.setattr(torch.cuda, what, lambda *_, value=value: value)
        monkeypatch.setattr(module, "_quantises", lambda: bitsandbytes)

    return put


def test_sizes_are_the_models_own(llama_8b):
    assert llama_8b.parameters == 8_030_261_248
    assert llama_8b.weights("bfloat16") == 2 * llama_8b.parameters
    assert 5 * GB < llama_8b.weights("bfloat16", load_in_4bit=True) < 6.5 * GB


@pytest.mark.parametrize(
    ("name", "capability", "dtype"),
    [("Tesla T4", (7, 5), "float16"), ("V100", (7, 0), "float16"), ("L4", (8, 9), "bfloat16")],
)
def test_bfloat16_only_where_the_gpu_has_it(gpu, name, capability, dtype):
    gpu(name, capability, 15 * GB)
    found = decide(TrainConfig(), None)
    assert (found.dtype, found.training.dtype) == (dtype, dtype)
    assert ("loss scaling" in str(found)) == (dtype == "float16")
    assert decide(TrainConfig(dtype="float32"), None).dtype == "float32"


def test_what_does_not_fit_is_made_smaller_in_the_order_of_what_it_costs(gpu, llama_8b):
    config = TrainConfig(batch_size=4, accumulation=4)

    def way(free: int) -> tuple[int, bool | None, bool | None]:
        gpu("some GPU", (8, 0), free * GB)
        found = decide(config, llama_8b, longest=2048)
        assert found.training.batch_size * found.training.accumulation == 16
        assert found.fits
        return (
            found.training.batch_size,
            found.training.gradient_checkpointing,
            found.training.load_in_4bit,
        )

    assert way(140) == (4, False, False)
    assert way(60) == (2, False, False)
    assert way(24) == (2, True, False)
    assert way(15) == (2, True, True)


def test_a_step_stays_what_it_is_whatever_its_size(gpu, llama_8b):
    for size, accumulation in ((5, 1), (7, 1), (6, 2)):
        gpu("some GPU", (8, 0), 24 * GB)
        config = TrainConfig(batch_size=size, accumulation=accumulation)
        found = decide(config, llama_8b, longest=2048).training
        assert found.batch_size * found.accumulation == size * accumulation
        assert found.batch_size < size


def test_what_is_asked_for_stays_and_what_cannot_fit_is_said(gpu, llama_8b, caplog):
    gpu("Tesla T4", (7, 5), 15 * GB)
    config = TrainConfig(load_in_4bit=False, gradient_checkpointing=False, batch_size=2)
    found = decide(config, llama_8b, longest=2048)
    assert not found.training.load_in_4bit
    assert not found.training.gradient_checkpointing
    assert not found.fits
    assert "may not fit" in caplog.text
    gpu("Tesla T4", (7, 5), 15 * GB, bitsandbytes=False)
    assert not decide(TrainConfig(), llama_8b, longest=2048).training.load_in_4bit


def test_a_cpu_computes_in_float32_as_configured():
    student = eef.Student("tiny")
    found = eef.hardware(student)
    assert (found.device, found.dtype) == ("cpu", "float32")
    assert found.training.batch_size == student.training.batch_size
    assert "0.419 million parameters" in str(found)
    assert "_own" not in student.__dict__, "an estimate must not load the weights"
    with pytest.raises(PrerequisiteError, match="'cuda', but torch"):
        eef.hardware(student, device="cuda")


def test_the_cost_of_a_demo_is_said_before_it_begins():
    text = forecast(make_config("tiny", student="tiny"))
    assert "float32" in text
    # SFT, RFT, RFTx3 and EEF: at most 24 + 72 + 24 + 72 explored, and 24 tests each
    assert "Up to 288 episodes a seed" in text
    assert "hours (a guess)" in text
    config = make_config("colab")
    assert (len(config.seeds), config.train, config.iterations, config.mode) == (
        1, 60, 1, "generate",
    )  # fmt: skip
