"""The tiny student's tokenizer: whole words of the embedded tasks, single characters for the rest.

The vocabulary and the text normalisation of a WordPiece model, so any ASCII text can be read;
buttons and product ids of the embedded WebShop cost one or two tokens.
"""

from __future__ import annotations

import re
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eeflib.envs.webshop import shop as words

SPECIAL = ("<|pad|>", "<|unk|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
ATOMS = (
    "click[", "search[", "answer[", "[sep]", "next>", "<prev", "back_to_search", "buy_now",
)  # fmt: skip
BUTTONS = {
    "next >": "next>",
    "< prev": "<prev",
    "back to search": "back_to_search",
    "buy now": "buy_now",
}
EXTRA = (
    "instruction page webshop search description features reviews attributes price rating total "
    "results find words choose read done none yes no half and or the a an is are of to in on for "
    "with that which must be also as described lower than dollars thank you for shopping us your "
    "score purchased thought action back"
)
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


MOST_DOLLARS = 900
"""Prices up to this are one token."""


def _words() -> list[str]:
    text = [EXTRA, *words.BRANDS, *words.FILLER, *words.BULLETS, *words.OPENINGS]
    text += [w for wordings in words.OPTION_WORDING.values() for w in wordings]
    text += [t for name, values in words.OPTION_GROUPS.values() for t in (name, *values)]
    for category in words.CATEGORIES:
        text += [category.name, *category.shared, *category.sentences]
        for kind in category.types:
            text += [kind.noun, *kind.path, *kind.attributes]
    text.append((Path(__file__).parent / "scienceworld_words.txt").read_text())
    found = re.findall(r"[a-z]+(?:-[a-z]+)*", re.sub(r"\{\w+\}", "", " ".join(text)).lower())
    return list(dict.fromkeys(found))


def vocabulary() -> dict[str, int]:
    chars = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    pieces = [
        *SPECIAL,
        *ATOMS,
        *(str(n) for n in (*range(201), *range(210, MOST_DOLLARS + 101, 10))),  # and price limits
        *(f"${n}" for n in range(1, MOST_DOLLARS + 1)),
        *words.ASIN_HEADS,
        *(f"##{tail}" for tail in words.ASIN_TAILS),
        *_words(),
        *chars,
        *(f"##{c}" for c in chars),
    ]
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    tok = Tokenizer(
        models.WordPiece(vocabulary(), unk_token="<|unk|>", continuing_subword_prefix="##")
    )
    drop = [
        (r" ?\(total results: \d+\)", ""),
        (r"\.0+(?=\s|$)", ""),
        (r"(?<=b0[a-z0-9]{8}) \[sep\] ", " "),
        (r" \[sep\] (?=\$)", " "),
        (r" \[sep\] rating: n\.a\.", ""),
    ]
    tok.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            *(normalizers.Replace(a, b) for a, b in BUTTONS.items()),
            *(normalizers.Replace(Regex(a), b) for a, b in drop),
        ]
    )
    atoms = "|".join(re.escape(a) for a in (*ATOMS, "]"))
    tok.pre_tokenizer = pre_tokenizers.Split(
        Regex(rf"{atoms}|b0[a-z0-9]{{8}}|\$?\d+|[a-z]+(?:-[a-z]+)*|[^\s]"), "removed", invert=True
    )
    tok.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            decoders.Replace("[ ", "["),
            decoders.Replace(" ]", "]"),
            *(decoders.Replace(b, a) for a, b in BUTTONS.items()),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
