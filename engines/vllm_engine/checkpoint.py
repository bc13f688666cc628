"""The files of a model's weights, where they are on this machine."""

from pathlib import Path

import msgspec

INDEX = "model.safetensors.index.json"


class _Index(msgspec.Struct):
    weight_map: dict[str, str]  # tensor -> file


def checkpoint_files(model: str, revision: str | None) -> list[Path]:
    """Those of a folder or a hub name that are loaded; none where one is missing, or the hub would have to be asked."""
    folder = Path(model) if Path(model).is_dir() else _snapshot(model, revision)
    return _files(folder) if folder is not None else []


def _snapshot(model: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return None


def _files(folder: Path) -> list[Path]:
    """Those that are loaded: what the index names, of which none may be missing, or else all but Mistral's own copy."""
    index = folder / INDEX
    if index.is_file():
        named = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()
        files = [folder / name for name in sorted(set(named))]
        return files if all(file.is_file() for file in files) else []
    files = sorted(folder.glob("*.safetensors"))
    return [file for file in files if not file.name.startswith("consolidated")] or files
