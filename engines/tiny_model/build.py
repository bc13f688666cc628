"""Puts small models where vLLM finds them, so that the service and its tests need neither a hub nor a network.

`phalanx-tiny` comes with the package, trained; the others get random weights. A model's folder appears by a rename,
whole or not at all, and carries a manifest that says which recipe it came from.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.tiny_model.random_weights import write_random_weights
from engines.tiny_model.shapes import BUILT_IN, CONFIGS, POOLING_FILES, VOCAB_SIZE, WITHOUT_WEIGHTS, Shape
from engines.tiny_model.tokenizer import TOKENIZER_FILES, special_ids, train_tokenizer, write_json, write_tokenizer

RECIPE = 1  # raise it whenever a change here changes the files
SEED = 20_240_613
MANIFEST = "phalanx-model.json"
CORPUS = Path(__file__).with_name("tokenizer_corpus.txt")
TRAINED = Path(__file__).with_name("trained")


def default_cache() -> Path:
    """Where built models are kept: ``$XDG_CACHE_HOME/phalanx/models``, or the same under ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "phalanx" / "models"


def build_named(name: str, cache: Path | None = None) -> Path:
    """The folder of the built-in model `name`, built there first if need be. KeyError for other names."""
    return build(BUILT_IN[name], (cache or default_cache()) / name)


def build(shape: Shape, folder: Path, seed: int = SEED) -> Path:
    """Makes `folder` hold this model, and returns it. Does nothing when it is there already.

    `seed` is that of random weights. Several processes may build at once. Raises FileExistsError rather than replace
    files that are not ours, and OSError when the trained model was not installed whole.
    """
    manifest = _manifest(shape, seed)
    if _is_complete(folder, manifest):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder_of(folder):
        if not _is_complete(folder, manifest):
            _refuse_foreign(folder)
            _replace(folder, manifest, shape, seed)
    return folder


def _replace(folder: Path, manifest: dict[str, Any], shape: Shape, seed: int) -> None:  # Any: JSON
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_files(fresh, shape, seed)
        files = [path for path in sorted(fresh.rglob("*")) if path.is_file()]
        sizes = {str(file.relative_to(fresh)): file.stat().st_size for file in files}
        write_json(fresh / MANIFEST, manifest | {"files": sizes})
        for path in [fresh, *fresh.rglob("*")]:  # a container's other users read models too
            path.chmod(0o755 if path.is_dir() else 0o644)  # mkdtemp gives 0700, safetensors 0600
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _only_builder_of(folder: Path) -> Iterator[None]:
    """Holds a file lock beside the folder; it ends with the process, however that ends."""
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _manifest(shape: Shape, seed: int) -> dict[str, Any]:
    if shape is Shape.TRAINED:
        return shipped_manifest()
    return {"recipe": RECIPE, "shape": shape.value, "seed": seed, "corpus": zlib.crc32(CORPUS.read_bytes())}


def _is_complete(folder: Path, manifest: dict[str, Any]) -> bool:
    try:
        found = json.loads((folder / MANIFEST).read_text())
        sizes = found.pop("files")
        whole = all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False
    return whole and bool(found == manifest)


def _refuse_foreign(folder: Path) -> None:
    ours = {MANIFEST, "config.json", "generation_config.json", "model.safetensors", *TOKENIZER_FILES}
    ours |= {name.partition("/")[0] for name in POOLING_FILES}
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours) if folder.exists() else []
    if foreign:
        raise FileExistsError(f"{folder} holds {foreign[0]!r}, which is not ours to replace: name another folder")


def _write_files(folder: Path, shape: Shape, seed: int) -> None:
    if shape is Shape.TRAINED:
        _copy_trained(folder)
        return
    tokenizer = train_tokenizer(CORPUS.read_text(encoding="utf-8").splitlines(keepends=True), VOCAB_SIZE)
    ids = special_ids(tokenizer)
    config = CONFIGS[shape] | ids
    write_tokenizer(folder, tokenizer, config["vocab_size"], config["max_position_embeddings"])
    write_json(folder / "config.json", config)
    if shape is Shape.EMBEDDING:
        for name, content in POOLING_FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            write_json(folder / name, content)
    else:
        write_json(folder / "generation_config.json", ids)
    if shape not in WITHOUT_WEIGHTS:
        write_random_weights(folder / "model.safetensors", config, seed)


# ---------------------------------------------------------------- the trained model


def shipped_manifest() -> dict[str, Any]:
    """What the trained model's files are, as its training wrote it."""
    return dict(json.loads((TRAINED / MANIFEST).read_text(encoding="utf-8")))


def _copy_trained(folder: Path) -> None:
    for name, checksum in shipped_manifest()["sha256"].items():
        content = (TRAINED / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != checksum:
            raise OSError(f"{TRAINED / name} is damaged: install phalanx again")
        (folder / name).write_bytes(content)
