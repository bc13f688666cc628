"""Trains the model that is served when none is named, from nothing: `python -m engines train-model`.

It takes a quarter of an hour of one core. The same seed and version of torch give the same files on one kind of
machine; another processor may round differently. What this wrote last is shipped in `trained/`.
"""

import hashlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from engines.tiny_model.build import MANIFEST
from engines.tiny_model.shapes import CONFIGS, Shape
from engines.tiny_model.tokenizer import BOS, EOS, special_ids, train_tokenizer, write_json, write_tokenizer
from engines.tiny_model.training import corpus
from engines.tiny_model.training.corpus import Chat, Corpus

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import GraniteMoeForCausalLM

SEED = 20_240_613
STEPS = 1800
ROWS, ROW_TOKENS = 16, 192  # of a step
PEAK_RATE, WARM_UP_STEPS = 1.2e-2, 60
TOKENIZER_SAMPLES = 8000
REPORT_STEPS = 50
SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.95}  # for requests that do not say
IGNORED = -100  # the label of a token that the model need not learn to say

_PUBLISHED_NAMES = (  # vLLM and the architecture's published checkpoints have these
    (".router.weight", ".router.layer.weight"),
    (".experts.gate_up_proj", ".input_linear.weight"),
    (".experts.down_proj", ".output_linear.weight"),
)


def train(folder: Path, report: Callable[[str], None], steps: int = STEPS, seed: int = SEED) -> None:
    """Trains the model and writes it into `folder`, reporting on the way."""
    import torch

    torch.set_num_threads(1)  # sums are then always made in the same order
    torch.manual_seed(seed)
    drawn = Corpus(Random(seed))  # noqa: S311  sentences, not secrets
    tokenizer = train_tokenizer(_samples(drawn), CONFIGS[Shape.TRAINED]["vocab_size"])
    model = _new_model(special_ids(tokenizer))
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    for step, (tokens, labels) in enumerate(islice(_batches(drawn, tokenizer), steps), 1):
        loss = model(input_ids=tokens, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % REPORT_STEPS == 0:
            report(f"step {step} of {steps}: loss {loss.item():.3f}")
    _write(folder, model, tokenizer, {"seed": seed, "torch": str(torch.__version__)})


def _rate(step: int, steps: int) -> float:
    """The learning rate's share of its peak: up quickly, then down to nothing along a line."""
    return min((step + 1) / WARM_UP_STEPS, (steps - step) / steps)


def _new_model(ids: dict[str, int]) -> "GraniteMoeForCausalLM":
    from transformers import GraniteMoeConfig, GraniteMoeForCausalLM

    config = GraniteMoeConfig(**CONFIGS[Shape.TRAINED] | ids, initializer_range=0.06)
    model = GraniteMoeForCausalLM(config).float()
    model.set_experts_implementation("grouped_mm")
    return model.train()


# ---------------------------------------------------------------- what it reads


def _samples(drawn: Corpus) -> Iterator[str]:
    return ("".join(_sample(drawn)) for _ in range(TOKENIZER_SAMPLES))


def _batches(drawn: Corpus, tokenizer: "Tokenizer") -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
    """Tokens and labels of shape (ROWS, ROW_TOKENS). Each row begins with a text or a chat, as a prompt does."""
    import torch

    while True:
        rows = [_row(drawn, tokenizer) for _ in range(ROWS)]
        yield torch.tensor([tokens for tokens, _ in rows]), torch.tensor([labels for _, labels in rows])


def _row(drawn: Corpus, tokenizer: "Tokenizer") -> tuple[list[int], list[int]]:
    tokens: list[int] = []
    labels: list[int] = []
    while len(tokens) < ROW_TOKENS:
        context, said = _sample(drawn)
        given, learned = (tokenizer.encode(text).ids for text in (context, said + EOS))
        tokens += given + learned
        labels += [IGNORED] * len(given) + learned
    return tokens[:ROW_TOKENS], labels[:ROW_TOKENS]


def _sample(drawn: Corpus) -> tuple[str, str]:
    """What is given, and what is to be said after it."""
    sample = drawn.sample()
    return ("", sample) if isinstance(sample, str) else spoken(sample)


def spoken(chat: Chat) -> tuple[str, str]:
    """A chat in the form that the tokenizer's template gives it, and the answer to it."""
    said = "".join(f"<|{message['role']}|>{message['content']}\n" for message in chat.messages)
    return f"{BOS}{said}<|assistant|>", chat.answer


# ---------------------------------------------------------------- what it writes


def _write(folder: Path, model: "GraniteMoeForCausalLM", tokenizer: "Tokenizer", made_with: dict[str, Any]) -> None:
    ids = special_ids(tokenizer)
    config = CONFIGS[Shape.TRAINED] | ids
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, tokenizer, config["vocab_size"], config["max_position_embeddings"])
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", ids | SAMPLING)
    _write_weights(folder / "model.safetensors", model.state_dict())
    write_json(folder / MANIFEST, _manifest(folder) | made_with)


def _write_weights(path: Path, tensors: "dict[str, torch.Tensor]") -> None:
    """By their published names, in half the bytes. The output layer is the embedding's and not written twice."""
    import torch
    from safetensors.torch import save_file

    kept = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    named = {_published(name): tensor.to(torch.bfloat16).contiguous() for name, tensor in kept.items()}
    save_file(named, path, metadata={"format": "pt"})


def _published(name: str) -> str:
    for ours, published in _PUBLISHED_NAMES:
        name = name.replace(ours, published)
    return name


def _manifest(folder: Path) -> dict[str, Any]:  # Any: JSON
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return {"shape": Shape.TRAINED.value, "corpus": corpus.checksum(), "sha256": sums}
