"""Some texts are commands to a model: an API refuses them in a file, and other models' ones teach nonsense."""

import re
from collections.abc import Iterator

_SPECIAL = re.compile(
    r"<\|(?:endoftext|startoftext|endofprompt|fim_prefix|fim_middle|fim_suffix|fim_pad|im_start|im_end|im_sep"
    r"|start|end|message|channel|constrain|return|call|reserved_\d{1,6})\|>"
)
"""Special tokens of OpenAI's models. Source: tiktoken's encodings (cl100k_base, o200k_base, o200k_harmony), ChatML."""

_FRAMES = re.compile(
    r"<\|[A-Za-z][\w ]{0,40}\|>|<｜[^｜<>]{1,40}｜>"  # <|eot_id|> of Llama, <|user|> of Phi; DeepSeek's
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?think>"
)
"""Special tokens of other models, which are text to the API."""


def special_tokens(text: str) -> Iterator[str]:
    """The tokens in a text that the API takes for commands, each once."""
    if "<|" in text:
        yield from dict.fromkeys(_SPECIAL.findall(text))


def template_marks(text: str) -> Iterator[str]:
    """What looks like the frame that other models' templates put around messages, each once."""
    if "<" in text or "[" in text:
        yield from dict.fromkeys(match.strip() for match in _FRAMES.findall(text) if not _SPECIAL.fullmatch(match))
