"""The model that is served when none is named: its shipped files are whole, and belong to the recipe and the corpus."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.settings.declaration import BUILT_IN_MODEL
from engines.host.inspect_model import ModelUnusable, inspect
from engines.tiny_model import build
from engines.tiny_model.build import MANIFEST, TRAINED, build_named, shipped_manifest
from engines.tiny_model.shapes import BUILT_IN, CONFIGS, Shape
from engines.tiny_model.training import corpus
from engines.tiny_model.training.corpus import Chat, Corpus

MAX_BYTES = 4_000_000
SAMPLES = 2000
HEAVY = ("numpy", "safetensors", "tokenizers", "torch", "transformers")


def header_of(weights: Path) -> dict[str, Any]:
    """Names, types and shapes of the tensors in a safetensors file."""
    content = weights.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = dict(json.loads(content[8 : 8 + size]))
    header.pop("__metadata__")
    return header


def vocab_of(tokenizer: Path) -> dict[str, int]:
    return dict(json.loads(tokenizer.read_text())["model"]["vocab"])


def samples(seed: int, count: int = SAMPLES) -> list[str | Chat]:
    drawn = Corpus(Random(seed))
    return [drawn.sample() for _ in range(count)]


def test_the_shipped_files_are_whole_and_small() -> None:
    sums = shipped_manifest()["sha256"]
    assert {path.name for path in TRAINED.iterdir()} == {*sums, MANIFEST}
    for name, checksum in sums.items():
        assert hashlib.sha256((TRAINED / name).read_bytes()).hexdigest() == checksum, name
    assert (TRAINED / "model.safetensors").stat().st_size <= MAX_BYTES


def test_the_shipped_files_belong_to_the_recipe_and_the_corpus() -> None:
    assert shipped_manifest()["corpus"] == corpus.checksum(), "the corpus was changed: train the model anew"
    config = json.loads((TRAINED / "config.json").read_text())
    recipe = CONFIGS[Shape.TRAINED]
    assert {name: config[name] for name in recipe} == recipe
    tensors = header_of(TRAINED / "model.safetensors")
    assert tensors["model.embed_tokens.weight"]["shape"] == [recipe["vocab_size"], recipe["hidden_size"]]
    experts = [tensor for name, tensor in tensors.items() if name.endswith("input_linear.weight")]
    expected = [recipe["num_local_experts"], 2 * recipe["intermediate_size"], recipe["hidden_size"]]
    assert [tensor["shape"] for tensor in experts] == [expected] * recipe["num_hidden_layers"]
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}


def test_the_model_that_nobody_names_is_found_and_placed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert BUILT_IN[BUILT_IN_MODEL] is Shape.TRAINED
    facts = inspect(BUILT_IN_MODEL)
    assert (facts.is_moe, facts.num_experts, facts.architecture) == (True, 8, "GraniteMoeForCausalLM")
    placed = Path(facts.model)
    assert placed == tmp_path / "phalanx" / "models" / "phalanx-tiny"
    for name in shipped_manifest()["sha256"]:
        assert (placed / name).read_bytes() == (TRAINED / name).read_bytes()
        assert (placed / name).stat().st_mode & 0o777 == 0o644


def test_placing_it_takes_no_library_of_an_engine(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engines.tiny_model.build import build_named\n"
        f"build_named({BUILT_IN_MODEL!r}, Path(sys.argv[1]))\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_a_model_of_another_release_is_replaced(tmp_path: Path) -> None:
    placed = build_named(BUILT_IN_MODEL, tmp_path)
    manifest = json.loads((placed / MANIFEST).read_text())
    (placed / MANIFEST).write_text(json.dumps(manifest | {"corpus": 0}))
    (placed / "config.json").write_text("{}")
    build_named(BUILT_IN_MODEL, tmp_path)
    assert (placed / "config.json").read_bytes() == (TRAINED / "config.json").read_bytes()


def test_a_damaged_installation_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = shutil.copytree(TRAINED, tmp_path / "trained")
    (damaged / "model.safetensors").write_bytes(b"half of it")
    monkeypatch.setattr(build, "TRAINED", damaged)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ModelUnusable, match=r"model\.safetensors is damaged: install phalanx again"):
        inspect(BUILT_IN_MODEL)
    assert not (tmp_path / "phalanx" / "models" / BUILT_IN_MODEL).exists()


# ---------------------------------------------------------------- the corpus


def test_the_same_seed_draws_the_same_texts_and_chats() -> None:
    assert samples(5, 50) == samples(5, 50)
    assert samples(5, 50) != samples(6, 50)


def test_texts_are_varied_and_nothing_of_the_templates_is_left_in_them() -> None:
    drawn = samples(1)
    texts = [sample if isinstance(sample, str) else sample.answer for sample in drawn]
    assert not [text for text in texts if any(mark in text for mark in ("{", "}", "|", ";", "(n)"))]
    assert len(set(map(str, drawn))) > 0.8 * len(drawn)


def test_slots_of_one_table_belong_together() -> None:
    """A capital stays its country's within a text."""
    texts = [sample for sample in samples(2) if isinstance(sample, str)]
    about_france = [text for text in texts if "capital of France is" in text]
    assert about_france
    assert all("Paris" in text for text in about_france)


def test_training_reads_chats_in_the_form_that_the_template_gives_them() -> None:
    transformers = pytest.importorskip("transformers")
    from engines.tiny_model.training.train import spoken

    tokenizer = transformers.AutoTokenizer.from_pretrained(TRAINED)
    chats = [sample for sample in samples(3, 300) if isinstance(sample, Chat)]
    assert {len(chat.messages) for chat in chats} >= {1, 2, 3}
    for chat in chats:
        expected = tokenizer.apply_chat_template(chat.messages, tokenize=False, add_generation_prompt=True)
        assert spoken(chat) == (expected, chat.answer)


def test_the_same_seed_trains_the_same_model(tmp_path: Path) -> None:
    for package in HEAVY:
        pytest.importorskip(package)
    from engines.tiny_model.training.train import train

    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        train(folder, lambda _: None, steps=1)
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert one == two
    assert {path.name for path in TRAINED.iterdir()} == set(one)
    layout, shipped_layout = (header_of(folder / "model.safetensors") for folder in (folders[0], TRAINED))
    assert layout == shipped_layout
    vocab, shipped_vocab = (vocab_of(folder / "tokenizer.json") for folder in (folders[0], TRAINED))
    assert vocab == shipped_vocab
