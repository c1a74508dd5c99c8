"""Small real parts for the training tests: tokenizers with chat templates, and a tiny Llama.

Not a test file. Everything is built here, nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
PLAIN = (  # no special token at all, and no marker after the last turn but a line feed
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
INST = (  # the system text lives inside the first user turn; a space belongs to the marker
    "{% set off = 1 if messages[0]['role'] == 'system' else 0 %}"
    "{% for m in messages[off:] %}{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' }}{% if loop.first and off %}"
    "{{ '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m['content'].strip() + ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + "
    "eos_token }}{% endif %}{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "plain": PLAIN, "inst": INST}
_SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>",
    "<|eot_id|>", "<s>", "</s>",
]  # fmt: skip
_CORPUS = [
    "You are shopping in a web store. Instruction: find a red cotton shirt under 30 dollars",
    "Thought: the first result fits\nAction: click[Buy Now]\nsearch[red shirt] click[Next >]",
    "system user assistant You see nothing. A very long page of results: B0001 B0002 $12.50 [SEP]",
]


def tokenizer(template: str = "chatml", *, words: bool = False, pad_is_eos: bool = True) -> Any:
    """A fast tokenizer: byte-level BPE as real models have, or whole words (`words=True`)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if words:
        raw = Tokenizer(models.WordLevel(unk_token="<unk>"))
        raw.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
        raw.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation()]
        )
        text = " ".join(_CORPUS) + " " + " ".join(f"w{i}" for i in range(60))
        vocab = {"<unk>": 0}
        for special in _SPECIAL:
            vocab.setdefault(special, len(vocab))
        for word, _ in raw.pre_tokenizer.pre_tokenize_str(text):
            vocab.setdefault(word, len(vocab))
        raw.model = models.WordLevel(vocab, unk_token="<unk>")
        raw.add_special_tokens(_SPECIAL)
    else:
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        raw.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=_SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        raw.train_from_iterator(_CORPUS, trainer)
    eos = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "inst": "</s>"}.get(template)
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token=eos or "<|endoftext|>",
        pad_token=(eos or "<|endoftext|>") if pad_is_eos else "<|endoftext|>",
        chat_template=TEMPLATES[template],
    )


def llama(vocab: int, *, seed: int = 0, layers: int = 2, width: int = 32, **settings: Any) -> Any:
    """A random Llama for `vocab` tokens on the CPU, the same for the same seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def model_of(family: str, settings: dict[str, Any], vocab: int) -> Any:
    """A random model of a transformers family such as `Phi3`, the same each time."""
    import torch
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vocab_size=vocab, bos_token_id=0, eos_token_id=0, initializer_range=0.3, **settings
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(config)
