"""The tiny models: built once, the same everywhere, with a tokenizer that works."""

import json
import shutil
import threading
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
pytest.importorskip("safetensors")

from tokenizers import Tokenizer

from engines.tiny_model.build import CORPUS, MANIFEST, build, build_named, default_cache
from engines.tiny_model.shapes import BUILT_IN, Shape

TEXTS = [
    "Hello, my name is",
    "  two  spaces\n\ttab",
    "Größe, 東京, 🙂 — naïve",
    '{"a": [1, 2.5, null]}',
    CORPUS.read_text(),
]


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("shape", list(Shape))
def test_the_same_seed_gives_the_same_bytes(shape: Shape, tmp_path: Path) -> None:
    assert files_of(build(shape, tmp_path / "one")) == files_of(build(shape, tmp_path / "two"))


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    one, two = (files_of(build(Shape.MOE, tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    assert one["model.safetensors"] != two["model.safetensors"]
    assert one["tokenizer.json"] == two["tokenizer.json"]


def test_a_model_that_is_there_is_not_built_again(tmp_path: Path) -> None:
    folder = build(Shape.MOE, tmp_path / "model")
    before = (folder / "config.json").stat()
    assert build(Shape.MOE, folder) == folder
    assert (folder / "config.json").stat() == before


@pytest.mark.parametrize("damage", ["manifest", "weights", "recipe"])
def test_a_damaged_or_older_model_is_rebuilt(damage: str, tmp_path: Path) -> None:
    folder = build(Shape.MOE, tmp_path / "model")
    whole = files_of(folder)
    if damage == "manifest":
        (folder / MANIFEST).unlink()
    elif damage == "weights":
        (folder / "model.safetensors").write_bytes(whole["model.safetensors"][:1000])
    else:
        (folder / MANIFEST).write_text(json.dumps(json.loads(whole[MANIFEST]) | {"recipe": 0}))
    assert files_of(build(Shape.MOE, folder)) == whole


@pytest.mark.parametrize("shape", [Shape.TRAINED, Shape.MOE, Shape.EMBEDDING])
def test_everybody_may_read_a_model(shape: Shape, tmp_path: Path) -> None:
    folder = build(shape, tmp_path / "model")
    modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in [folder, *folder.rglob("*")]}
    assert modes == {True: 0o755, False: 0o644}


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        build(Shape.MOE, tmp_path)
    assert files_of(tmp_path) == {"thesis.txt": b"years of work"}


def test_several_builders_at_once_end_with_one_whole_model(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def builder() -> None:
        try:
            build(Shape.DENSE, tmp_path / "model")
        except Exception as error:  # noqa: BLE001  a thread's failure is the test's
            errors.append(error)

    threads = [threading.Thread(target=builder) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [".model.lock", "model"]
    assert files_of(tmp_path / "model") == files_of(build(Shape.DENSE, tmp_path / "other"))


def test_built_in_models_live_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "phalanx" / "models"
    for name in BUILT_IN:
        assert build_named(name) == tmp_path / "phalanx" / "models" / name
    shutil.rmtree(tmp_path / "phalanx")


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_tokenizer(text: str, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(build(Shape.MOE, tmp_path / "model") / "tokenizer.json"))
    tokens = tokenizer.encode(text).ids
    assert tokenizer.decode(tokens) == text
    assert 0 < len(tokens) < len(text.encode())


@pytest.mark.parametrize("shape", list(Shape))
def test_every_token_that_a_model_may_answer_with_has_a_text(shape: Shape, tmp_path: Path) -> None:
    folder = build(shape, tmp_path / "model")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert tokenizer.get_vocab_size() == vocab_size
    assert all(tokenizer.id_to_token(token) for token in range(vocab_size))
    assert tokenizer.decode([vocab_size - 1]) != ""


def test_powermoe_comes_without_weights(tmp_path: Path) -> None:
    folder = build(Shape.POWERMOE_3B, tmp_path / "model")
    assert not list(folder.glob("*.safetensors"))
    assert json.loads((folder / "config.json").read_text())["num_local_experts"] == 40


def chat(folder: Path, messages: list[dict[str, object]], **arguments: object) -> str:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **arguments))


def test_the_chat_template_tells_the_roles_apart(tmp_path: Path) -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]},
        {"role": "tool", "content": "42"},
    ]
    text = chat(build(Shape.MOE, tmp_path / "model"), messages, add_generation_prompt=True, enable_thinking=False)
    assert text == (
        "<|bos|><|system|>Be brief.\n<|user|>Hi\n"
        '<|assistant|>{"name": "look", "arguments": "{}"}\n<|tool|>42\n<|assistant|>'
    )


def test_the_chat_template_lists_tools(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {}}}
    text = chat(build(Shape.MOE, tmp_path / "model"), [{"role": "user", "content": "Hi"}], tools=[tool])
    assert text.startswith("<|bos|><|system|>Tools:\n{") and '"name": "look"' in text
    assert text.endswith("<|user|>Hi\n")
