"""Students through transformers: real small Llamas, real tokenizer, real chat template."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

import eeflib as eef
from eeflib.errors import DataError
from eeflib.policies.base import Conversation, Message, Policy
from eeflib.policies.decoding import Decoder
from eeflib.policies.huggingface import HuggingFacePolicy
from eeflib.prompts import parse_reply
from eeflib.rollout import Episode, run_episodes

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
WORDS = ["red", "blue", "small", "large", "shirt", "lamp", "chair", "look", "around", "go", "to"]
WORDS += ["kitchen", "garden", "price", "next"]
SPECIALS = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    text = [f"click[{a} {b}] search[{b}] {a}" for a in WORDS for b in WORDS]
    bpe.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIALS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    out = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        extra_special_tokens=SPECIALS[2:],
    )
    out.chat_template = TEMPLATE
    return out


TOKENIZER = make_tokenizer()
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.25,  # far from uniform, so that a wrong position changes decisions
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def make_llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})).eval()


MODEL = make_llama()


def policy(model: object = MODEL, **settings: object) -> HuggingFacePolicy:
    settings = {"name": "student", "mode": "admissible", **settings}
    return HuggingFacePolicy(model, TOKENIZER, **settings)


def rngs(n: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, i]) for i in range(n)]


def page(draw: np.random.Generator, low: int = 3, high: int = 15) -> str:
    return " [SEP] ".join(draw.choice(WORDS, int(draw.integers(low, high))))


def actions(draw: np.random.Generator) -> tuple[str, ...]:
    some = [f"click[{a} {b}]" for a, b in draw.choice(WORDS, (int(draw.integers(1, 9)), 2))]
    return tuple(dict.fromkeys([*some, "look", "look around", "search[<text>]"]))


def is_admissible(text: str, admissible: tuple[str, ...]) -> bool:
    if text in admissible:
        return True
    found = text.startswith("search[") and text.endswith("]") and "search[<text>]" in admissible
    return found and bool(text[7:-1].strip()) and "\n" not in text


class Episodes:
    """Conversations that start and end at different times, driven by one policy's replies."""

    def __init__(self, size: int, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.histories: dict[str, list[Message]] = {}
        self.left: dict[str, int] = {}
        self.size, self.born = size, 0

    def next_batch(self) -> list[Conversation]:
        while len(self.histories) < self.size:
            key, self.born = f"e{self.born}", self.born + 1
            # every third starts with the teacher's turns of the one before it
            start = list(next(reversed(self.histories.values()), [])) if self.born % 3 == 0 else []
            start = start if len(start) < 6 else []
            self.histories[key], self.left[key] = start, int(self.draw.integers(1, 7))
        out = []
        for key, history in self.histories.items():
            history.append(Message("user", page(self.draw)))
            out.append(Conversation(tuple(history), key, actions(self.draw)))
        return out

    def answer(self, texts: list[str]) -> list[str]:
        """Keys of the episodes that ended."""
        for key, text in zip(list(self.histories), texts, strict=True):
            self.histories[key].append(Message("assistant", text))
            self.left[key] -= 1
        over = [k for k, left in self.left.items() if left == 0]
        for key in over:
            del self.histories[key], self.left[key]
        return over


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("budget", [None, 300_000])
def test_cached_replies_equal_those_of_encoding_everything(greedy, budget):
    """Ragged episodes, rows freed and refilled, shared starts; with a small budget, evictions."""
    quick = policy(greedy=greedy, cache_bytes=budget, slot_tokens=4)
    plain = policy(greedy=greedy, cached=False, slot_tokens=4)
    episodes, decisions = Episodes(13, seed=3), 0
    for turn in range(12):
        batch = episodes.next_batch()
        texts = [""] * len(batch)
        # in two calls, so that a call's rows do not lie side by side
        for part in np.array_split(episodes.draw.permutation(len(batch)), [9]):
            asked = [batch[i] for i in part]
            got = quick.act(asked, rng=rngs(len(part), turn))
            want = plain.act(asked, rng=rngs(len(part), turn))
            assert [r.text for r in got] == [r.text for r in want]
            assert [r.logprob for r in got] == pytest.approx([r.logprob for r in want], abs=1e-3)
            for i, conversation, reply in zip(part, asked, got, strict=True):
                assert is_admissible(reply.text, conversation.admissible), reply.text
                texts[i] = reply.text
        decisions += len(batch)
        quick.forget(episodes.answer(texts))
    assert decisions == 156


def test_episodes_that_do_not_fit_into_memory_wait_for_their_turn(monkeypatch):
    world = eef.webshop(5, train=10, test=1)
    student = eef.Student("tiny")
    read = 0
    call = Decoder._call

    def counted(self, ids, **kwargs):
        nonlocal read
        read += ids.size
        return call(self, ids, **kwargs)

    monkeypatch.setattr(Decoder, "_call", counted)
    shown, spent = [], []
    for budget in (None, 6_000_000):  # enough, and enough for three or four of the ten
        asked = student.policy(greedy=True)
        asked.decoder.cache_bytes = budget or asked.decoder.cache_bytes
        read = 0
        episodes = [Episode(task, "x") for task in world.split("train")]
        played = run_episodes(
            episodes, asked, world.make_env, student.format("webshop"), actor="student", seed=5
        )
        spent.append(read)
        shown.append([(t.task_id, t.actions, t.reward) for t in played])
    assert shown[0] == shown[1]
    assert spent[1] < 3 * spent[0]  # by turns it would be seven times as much


def exact_distribution(conversation: Conversation, temperature: float) -> dict[str, float]:
    """By brute force: each action's tokens scored by whole forward passes over its prefixes."""
    chat = [{"role": m.role, "content": m.content} for m in conversation.messages]
    prompt = TOKENIZER.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids = {
        a: tuple(TOKENIZER(a + "<|end|>", add_special_tokens=False)["input_ids"])
        for a in conversation.admissible
    }
    start = TOKENIZER(prompt, add_special_tokens=False)["input_ids"]
    out = {}
    for action, path in ids.items():
        total = 0.0
        for n, token in enumerate(path):
            rivals = sorted({p[n] for p in ids.values() if p[:n] == path[:n]})
            with torch.no_grad():
                logits = MODEL(torch.tensor([[*start, *path[:n]]])).logits[0, -1, rivals].double()
            total += torch.log_softmax(logits / temperature, 0)[rivals.index(token)].item()
        out[action] = math.exp(total)
    return out


def test_choices_follow_the_model_s_likelihood_over_the_admissible_actions():
    listed = ("look", "look around", "click[red lamp]", "click[red chair]", "go to kitchen", "next")
    asked = Conversation((Message("user", "small lamp [SEP] price"),), "", listed)
    temperature = 3.0
    want = exact_distribution(asked, temperature)
    assert sum(want.values()) == pytest.approx(1)
    student = policy(temperature=temperature)
    n = 2000
    replies = student.act([asked] * n, rng=rngs(n))
    counts = Counter(r.text for r in replies)
    for action, p in want.items():  # four standard errors
        assert counts[action] / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n)), action
    for reply in replies[:50]:
        assert reply.logprob == pytest.approx(math.log(want[reply.text]), abs=1e-4)


def test_greedy_takes_the_likeliest_token_at_each_branch():
    listed = ("go to kitchen", "next", "look")
    asked = Conversation((Message("user", "large shirt"),), "", listed)
    want = exact_distribution(asked, 1.0)  # one branch, at the first token
    assert policy(greedy=True).act([asked], rng=rngs(1))[0].text == max(want, key=want.get)


def test_a_thought_is_written_and_the_action_behind_it_chosen():
    lamp, chair = (
        "Thought: a red lamp\nAction: search[red lamp]",
        "Thought: go\nAction: click[red chair]",
    )
    model = trained({"lamp": lamp, "chair": chair, "shirt": "click[blue shirt]"})
    asked = [
        Conversation((Message("user", word),), word, listed)
        for word, listed in (
            ("lamp", ("next", "search[<text>]")),
            ("chair", ("click[red chair]", "click[red lamp]")),
            ("chair", ("look around", "go to kitchen")),  # what it would do is not to be had
            ("shirt", ("look", "next")),  # ends without the label
            ("lamp", ("look",)),
        )
    ]
    texts = [r.text for r in policy(model, greedy=True, thoughts=True).act(asked, rng=rngs(5))]
    assert texts[:2] == [lamp, chair]
    assert texts[2] in ("Thought: go\nAction: look around", "Thought: go\nAction: go to kitchen")
    assert texts[3] in ("click[blue shirt]\nAction: look", "click[blue shirt]\nAction: next")
    assert texts[4] == "Thought: a red lamp\nAction: look"


def test_thoughts_cut_off_at_the_limit_leave_an_action_and_the_cache_changes_nothing():
    episodes = Episodes(8, seed=5)
    quick, plain = (
        policy(thoughts=True, max_new_tokens=12, slot_tokens=4, cached=cached)
        for cached in (True, False)
    )
    for turn in range(5):
        batch = episodes.next_batch()
        got, want = (p.act(batch, rng=rngs(len(batch), turn)) for p in (quick, plain))
        assert [r.text for r in got] == [r.text for r in want]
        assert [r.logprob for r in got] == pytest.approx([r.logprob for r in want], abs=1e-3)
        for conversation, reply in zip(batch, got, strict=True):
            parsed = parse_reply(reply.text)
            assert parsed.valid, reply.text
            assert is_admissible(parsed.action, conversation.admissible), reply.text
            assert reply.usage.completion_tokens >= 12
        quick.forget(episodes.answer([r.text for r in got]))


def test_a_student_that_thinks_chooses_only_with_an_engine_that_can():
    student = eef.Student("tiny", prompt="react", mode="admissible", engine="batch")
    with pytest.raises(DataError, match="batch cannot write a thought and then choose"):
        student.policy()


def test_free_text_is_one_line_not_empty_and_bounded():
    asked = [
        Conversation((Message("user", page(np.random.default_rng(i))),), "", ("search[<text>]",))
        for i in range(40)
    ]
    for reply in policy(slot_tokens=5, temperature=2.0).act(asked, rng=rngs(40)):
        assert is_admissible(reply.text, ("search[<text>]",)), reply.text
        assert reply.usage.completion_tokens <= 5 + len(TOKENIZER("search[")["input_ids"])
        assert not any(s in reply.text for s in SPECIALS)
        assert reply.logprob < 0


def test_free_text_ends_where_the_model_writes_what_follows_it():
    model = trained({"lamp": "search[red lamp]", "chair": "search[chair]"})
    asked = [
        Conversation((Message("user", w),), "", ("next", "search[<text>]"))
        for w in ("lamp", "chair")
    ]
    replies = policy(model, greedy=True).act(asked, rng=rngs(2))
    assert [r.text for r in replies] == ["search[red lamp]", "search[chair]"]


def test_two_free_texts_in_one_action():
    asked = Conversation((Message("user", "red"),), "", ("move <text> to <text>",))
    reply = policy(slot_tokens=3).act([asked] * 8, rng=rngs(8))[3]
    assert reply.text.startswith("move ")
    assert " to " in reply.text[5:]


def test_a_reply_depends_on_its_own_conversation_and_seed_only():
    batch = Episodes(9, seed=5).next_batch()
    together = policy().act(batch, rng=rngs(9, seed=7))
    again = policy().act(batch, rng=rngs(9, seed=7))
    backwards = policy().act(batch[::-1], rng=rngs(9, seed=7)[::-1])[::-1]
    alone = [policy().act([c], rng=[g])[0] for c, g in zip(batch, rngs(9, seed=7), strict=True)]
    texts = [r.text for r in together]
    for other in (again, backwards, alone):
        assert [r.text for r in other] == texts
    assert [r.logprob for r in again] == [r.logprob for r in together]
    reordered = [Conversation(c.messages, c.key, c.admissible[::-1]) for c in batch]
    assert [r.text for r in policy().act(reordered, rng=rngs(9, seed=7))] == texts
    other_seeds = [policy().act(batch, rng=rngs(9, seed=s)) for s in range(4)]
    assert any([r.text for r in replies] != texts for replies in other_seeds)


def encoded_tokens(model: LlamaForCausalLM) -> list[int]:
    """Grows by the number of token positions the model computes, padding included."""
    seen: list[int] = []
    embeddings = model.model.embed_tokens
    embeddings.register_forward_hook(lambda layer, args, out: seen.append(args[0].numel()))
    return seen


def test_heads_that_share_keys_read_them_in_place(monkeypatch):
    def copies(*_: object) -> None:
        raise AssertionError("keys are copied for every head")

    model = make_llama()
    decoder = Decoder(model)
    monkeypatch.setattr("transformers.integrations.sdpa_attention.repeat_kv", copies)
    prompts = [np.arange(4, 4 + n) for n in (9, 5)]
    decoder.begin(["a", "b"], prompts)
    got = decoder.logits([0, 1], [[7], [9, 8]])
    monkeypatch.undo()
    assert decoder.cached
    assert model.config._attn_implementation == "sdpa"  # training is left as it is
    for logits, ids in zip(got, ([*prompts[0], 7], [*prompts[1], 9, 8]), strict=True):
        whole = model(torch.tensor([ids])).logits[0, -1]
        assert torch.allclose(logits, whole, atol=1e-5)


def test_a_model_without_heads_is_asked_without_a_cache(caplog):
    config = MambaConfig(vocab_size=len(TOKENIZER), hidden_size=16, state_size=4,
                         num_hidden_layers=1)  # fmt: skip
    decoder = Decoder(MambaForCausalLM(config).eval())
    assert not decoder.cached
    assert "no cache for MambaForCausalLM" in caplog.text
    decoder.begin(["a"], [np.arange(4, 9)])
    assert decoder.logits([0], [[7]]).shape == (1, len(TOKENIZER))


def test_a_turn_costs_its_new_tokens_only():
    model = make_llama()
    student, seen = policy(model), None
    seen = encoded_tokens(model)
    history, draw = [], np.random.default_rng(0)
    for _ in range(6):
        history.append(Message("user", page(draw, 30, 31)))
        asked = Conversation(tuple(history), "a", ("look around", "click[red lamp]", "next"))
        reply = student.act([asked], rng=rngs(1))[0]
        history.append(Message("assistant", reply.text))
    assert reply.usage.prompt_tokens > 600
    assert sum(seen) < 1.1 * reply.usage.prompt_tokens
    assert student.decoder.cached
    student.forget(["a", "unknown"])
    assert student.decoder.live == 0


def test_attempts_at_one_task_share_their_prompt():
    model = make_llama()
    student, draw = policy(model, greedy=True), np.random.default_rng(1)
    seen = encoded_tokens(model)
    turns = [page(draw, 30, 31) for _ in range(4)]
    branches = []
    for k in range(1, 5):  # the student goes on after k - 1 teacher turns
        history = [Message("user", turns[0])]
        for text in turns[1:k]:
            history += [Message("assistant", "next"), Message("user", text)]
        branches += [Conversation(tuple(history), f"{k}-{n}", ("look", "next")) for n in range(2)]
    replies = student.act(branches, rng=rngs(8))
    total = sum(r.usage.prompt_tokens for r in replies)
    assert sum(seen) < 0.35 * total
    plain = policy(model, greedy=True, cached=False).act(branches, rng=rngs(8))
    assert [r.text for r in replies] == [r.text for r in plain]


def test_changed_history_and_repeated_keys_do_not_reuse_what_differs():
    quick, plain = policy(greedy=True), policy(greedy=True, cached=False)
    draw = np.random.default_rng(2)
    listed = tuple(f"click[{w}]" for w in WORDS)
    for turn in range(20):  # the same key, each time another story
        chats = [(Message("user", page(draw)),), (Message("user", page(draw)),)]
        batch = [Conversation(c, "same", listed) for c in chats]
        got = [r.text for r in quick.act(batch, rng=rngs(2))]
        assert got == [r.text for r in plain.act(batch, rng=rngs(2))], turn


def test_weights_changed_in_place_are_noticed():
    model = make_llama(seed=4)
    quick = policy(model, greedy=True)
    listed = tuple(f"click[{w}]" for w in WORDS)
    draw = np.random.default_rng(3)
    batch = [Conversation((Message("user", page(draw)),), str(i), listed) for i in range(12)]
    before = [r.text for r in quick.act(batch, rng=rngs(12))]
    with torch.no_grad():
        for weight in model.model.parameters():
            weight.mul_(-0.7)
    after = [r.text for r in quick.act(batch, rng=rngs(12))]
    assert after != before
    fresh = policy(model, greedy=True, cached=False)
    assert after == [r.text for r in fresh.act(batch, rng=rngs(12))]


def trained(examples: dict[str, str]) -> LlamaForCausalLM:
    """A small model that has learned to answer `examples` by heart."""
    model = make_llama(seed=1, initializer_range=0.05).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    texts = [f"<|user|>\n{q}<|end|>\n<|assistant|>\n{a}<|end|>" for q, a in examples.items()]
    rows = [TOKENIZER(t, add_special_tokens=False)["input_ids"] for t in texts]
    for _ in range(80):
        loss = sum(model(torch.tensor([r]), labels=torch.tensor([r])).loss for r in rows)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def test_generation_ends_at_the_end_of_the_turn_or_the_limit():
    model = trained({"red lamp": "click[next] go to garden", "blue": "look"})
    asked = [Conversation((Message("user", q),), q) for q in ("red lamp", "blue")]

    def texts(**settings):
        student = policy(model, mode="generate", greedy=True, **settings)
        assert not student.wants_admissible
        return student.act(asked, rng=rngs(2))

    replies = texts()
    assert [r.text for r in replies] == ["click[next] go to garden", "look"]
    assert all(-1.0 < r.logprob < 0 for r in replies)
    assert [r.text for r in texts(cached=False)] == ["click[next] go to garden", "look"]
    short = texts(max_new_tokens=3)
    assert [r.usage.completion_tokens for r in short] == [3, 2]
    assert "click[next] go to garden".startswith(short[0].text)
    assert short[0].text != "click[next] go to garden"


def test_sampled_generation_is_seeded_and_does_not_depend_on_the_cache():
    batch = Episodes(7, seed=8).next_batch()
    settings = {"mode": "generate", "max_new_tokens": 12}
    one, two = policy(**settings), policy(**settings, cached=False)
    got = one.act(batch, rng=rngs(7))
    assert [r.text for r in got] == [r.text for r in two.act(batch, rng=rngs(7))]
    assert [r.text for r in got] != [r.text for r in two.act(batch, rng=rngs(7, seed=1))]
    assert len({r.text for r in got}) > 1


def test_batches_larger_than_the_limit_are_split_without_a_trace():
    batch = Episodes(11, seed=9).next_batch()
    whole = [r.text for r in policy().act(batch, rng=rngs(11))]
    assert [r.text for r in policy(max_batch=4).act(batch, rng=rngs(11))] == whole
    assert policy().act([], rng=[]) == []


def test_a_sliding_window_is_cached_and_one_that_cannot_be_is_said(caplog):
    torch.manual_seed(0)
    sizes = {k: v for k, v in SIZES.items() if k != "initializer_range"}
    windowed = MistralForCausalLM(MistralConfig(**sizes, sliding_window=8)).eval()
    mixed = Gemma2ForCausalLM(Gemma2Config(**sizes, head_dim=8, sliding_window=8)).eval()
    for model in (windowed, mixed):
        quick, plain = policy(model, greedy=True), policy(model, cached=False)
        plain.greedy = True
        assert quick.decoder.cached
        episodes = Episodes(4, seed=2)
        for _ in range(4):
            batch = episodes.next_batch()
            got = [r.text for r in quick.act(batch, rng=rngs(4))]
            assert got == [r.text for r in plain.act(batch, rng=rngs(4))]
            quick.forget(episodes.answer(got))
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    stretched = make_llama(rope_parameters=rope)
    student = policy(stretched, greedy=True)
    assert not student.decoder.cached
    assert "rotary positions" in caplog.text
    batch = Episodes(3, seed=1).next_batch()
    for conversation, reply in zip(batch, student.act(batch, rng=rngs(3)), strict=True):
        assert is_admissible(reply.text, conversation.admissible)


def test_other_architectures_and_adapters_answer_as_without_the_cache():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(TOKENIZER), n_embd=32, n_layer=2, n_head=2, n_positions=512,
            initializer_range=0.2, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        )
    ).eval()  # fmt: skip
    adapted = get_peft_model(make_llama(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_()
    for model in (gpt2, adapted):
        quick, plain = policy(model, greedy=True), policy(model, greedy=True, cached=False)
        episodes = Episodes(4, seed=2)
        for _ in range(3):
            batch = episodes.next_batch()
            got = [r.text for r in quick.act(batch, rng=rngs(4))]
            assert got == [r.text for r in plain.act(batch, rng=rngs(4))]
            quick.forget(episodes.answer(got))
    assert policy(adapted).decoder.cached


def test_bad_input_is_named():
    short = make_llama(max_position_embeddings=64)
    student = policy(short)
    good = Conversation((Message("user", "red"),), "a", ("look", "next"))
    long = Conversation((Message("user", "red lamp " * 60),), "b", ("look", "next"))
    nothing = Conversation((Message("user", "red"),), "c", ())
    first, second, third = student.act([long, good, nothing], rng=rngs(3))
    assert "reads 64" in first.error
    assert second.text in ("look", "next")
    assert third.error == "no action is admissible"
    with pytest.raises(DataError, match="'d' lists no admissible actions"):
        student.act([Conversation((Message("user", "red"),), "d")], rng=rngs(1))
    with pytest.raises(DataError, match="generators"):
        student.act([good], rng=[])
    with pytest.raises(DataError, match="greedy=True"):
        policy(temperature=0.0)
    bare = make_tokenizer()
    bare.chat_template = None
    with pytest.raises(DataError, match="chat template"):
        HuggingFacePolicy(MODEL, bare, name="x")
    assert isinstance(student, Policy)
