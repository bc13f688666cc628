"""A byte-level BPE tokenizer with a chat template, trained in a moment on texts of our own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- if tools %}
{{- '<|system|>Tools:\\n' -}}
{%- for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}
{%- endif %}
{%- for message in messages %}
{%- set role = message['role'] if message['role'] in ['system', 'assistant', 'tool'] else 'user' -%}
{{- '<|' + role + '|>' -}}
{%- if message['content'] is string %}{{ message['content'] }}
{%- else %}{% for part in message['content'] or [] %}{{ part['text'] }}{% endfor %}{% endif %}
{%- for call in message['tool_calls'] or [] %}{{ call['function'] | tojson }}{% endfor %}
{{- '\\n' -}}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
    """A tokenizer of at most so many tokens. The same texts give the same one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS, PAD, *ROLES],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def special_ids(tokenizer: "Tokenizer") -> dict[str, int]:
    """The ids of the special tokens, as config.json and generation_config.json name them."""
    vocab = tokenizer.get_vocab()
    return {"bos_token_id": vocab[BOS], "eos_token_id": vocab[EOS], "pad_token_id": vocab[PAD]}


def write_tokenizer(folder: Path, tokenizer: "Tokenizer", vocab_size: int, max_tokens: int) -> None:
    """Writes TOKENIZER_FILES for a model of this vocabulary and context."""
    content = json.loads(tokenizer.to_str())
    vocab: dict[str, int] = content["model"]["vocab"]
    # A larger vocabulary is filled with words that no merge makes: every id a model may answer with has a text.
    vocab.update({f"Ġword{token}": token for token in range(len(vocab), vocab_size)})
    write_json(folder / "tokenizer.json", content)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": max_tokens,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, value: dict[str, Any] | list[Any]) -> None:  # Any: JSON
    """Writes it readably."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
