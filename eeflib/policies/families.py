"""Chat templates of well-known model families, for `eef check-model --all-known`.

Import `check_template`, `known_families` and `bare_tokenizer` from here. Most templates are those
that trl ships; the others are written here after the family's published format (the table says
which). They are for checking and for tests: a model that is loaded brings its own.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eeflib.errors import DataError
from eeflib.policies.chat import Chat

_TRL = {
    "Llama 3": "llama3",
    "Llama 3.1": "llama3_1",
    "Llama 3.2": "llama3_2",
    "Qwen2.5": "qwen2_5",
    "Qwen3 (hybrid)": "qwen3",
    "Qwen3 (instruct 2507)": "qwen3_instruct_2507",
    "Qwen3.5": "qwen3_5_think",
    "Gemma 2": "gemma",
    "Gemma 3": "gemma3",
    "Gemma 4": "gemma4",
    "Phi-3": "phi3",
    "Phi-3.5": "phi3_5",
    "GLM-4.5": "glm4moe",
    "DeepSeek-R1 distills": "deepseek_r1_distill",
    "gpt-oss": "gptoss",
    "LFM2": "lfm2",
    "Nemotron 3 nano": "nemotron_3_nano",
}
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}"
)
_ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
_INST = (
    "{% for m in rest %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
_OWN = {
    "SmolLM2": (
        "{% if messages[0].role != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n' }}{% endif %}"
        f"{_CHATML}{_ASK}"
    ),
    "SmolLM3": (
        "{% set own = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% set rest = messages[1:] if own else messages %}"
        "{{ '<|im_start|>system\n## Metadata\n\nToday Date: ' + strftime_now('%d %B %Y') + "
        "'\nReasoning Mode: ' + ('/think' if enable_thinking else '/no_think') + "
        "'\n\n## Custom Instructions\n\n' + own + '<|im_end|>\n' }}"
        f"{_CHATML.replace('in messages', 'in rest')}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' + "
        "('' if enable_thinking else '<think>\n\n</think>\n') }}{% endif %}"
    ),
    "Mistral 7B v0.3": (  # the system text goes into the last user turn
        "{% set own = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
        "{% set rest = messages[1:] if own else messages %}{{ bos_token }}"
        "{% for m in rest %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + (own if loop.index0 >= rest | length - 1 else '') + m.content }}"
        "{{ '[/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "Mistral Small": (
        "{{ bos_token }}{% set rest = messages %}{% if messages[0].role == 'system' %}"
        "{{ '[SYSTEM_PROMPT]' + messages[0].content + '[/SYSTEM_PROMPT]' }}"
        "{% set rest = messages[1:] %}{% endif %}" + _INST
    ),
    "Ministral 3": (  # a system text of its own unless one is given
        "{{ bos_token + '[SYSTEM_PROMPT]' }}{% set rest = messages %}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
        "{% set rest = messages[1:] %}{% else %}{{ 'You are a helpful model.' }}{% endif %}"
        "{{ '[/SYSTEM_PROMPT]' }}" + _INST
    ),
    "Phi-4": (
        "{% for m in messages %}"
        "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
    ),
    "Granite 3": (
        "{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + "
        "'<|end_of_text|>\n' }}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
    ),
    "OLMo 2": (  # the last reply of a finished chat has no line feed behind its end
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{{ '<|assistant|>\n' + m.content + eos_token + ('' if loop.last else '\n') }}"
        "{% else %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
    "GLM-4": (
        "{{ '[gMASK]<sop>' }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
    ),
}
_MARKS = re.compile(
    r"<\|[\w ]+\|>|<\uff5c[^\uff5c]+\uff5c>|<[a-z_]+_of_[a-z]+>|\[/?[A-Z_]+\]|</?think>"
    r"|<\|?turn\|?>|\[gMASK\]|<sop>|<\|?channel\|?>"
)


def check_template(tokenizer: Any, name: str, **template_arguments: Any) -> dict[str, Any]:
    """What the gate says of a tokenizer: `model`, `verdict`, `notes`, `opening`, `closing`.

    The verdict is `ok`, `ok with arguments` (the notes say what is done otherwise than the template
    does by itself) or `refused` (the notes say why).
    """
    try:
        chat = Chat(tokenizer, **template_arguments)
    except DataError as exc:
        return {"model": name, "verdict": "refused", "notes": [str(exc)]}
    verdict = "ok with arguments" if chat.notes else "ok"
    out = {"model": name, "verdict": verdict, "notes": [*chat.notes]}
    return {**out, "opening": chat.opening, "closing": chat.closing}


def known_families() -> dict[str, tuple[str, str]]:
    """Family -> (where its template is from, the template); trl's only where trl is installed."""
    out = {name: ("eeflib, after the published format", text) for name, text in _OWN.items()}
    spec = importlib.util.find_spec("trl")
    folder = Path(spec.origin).parent / "chat_templates" if spec and spec.origin else None
    for name, file in _TRL.items():
        path = folder / f"{file}.jinja" if folder else None
        if path is not None and path.is_file():
            out[name] = (f"trl, {path.name}", path.read_text("utf-8"))
    return dict(sorted(out.items()))


def check_known() -> list[dict[str, Any]]:
    """`check_template` of each family."""
    known = known_families().items()
    return [check_template(bare_tokenizer(text, name), name) for name, (_, text) in known]


def verdicts(found: Sequence[Mapping[str, Any]]) -> str:
    """A line for each result of `check_template`."""
    wide = max(len(row["model"]) for row in found)
    return "\n".join(
        f"{row['model']:{wide}}  {row['verdict']:17}  {'; '.join(row['notes'])}".rstrip()
        for row in found
    )


def bare_tokenizer(template: str, name: str = "") -> Any:
    """A tokenizer of single bytes with `template` and the control tokens that occur in it."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    out = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    marks = {*_MARKS.findall(template), "<|system|>", "<|user|>", "<|assistant|>"}
    added = [AddedToken(m, special="think" not in m, normalized=False) for m in sorted(marks)]
    out.add_tokens(added)
    out.chat_template = template
    out.name_or_path = name
    return out
