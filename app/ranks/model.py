"""What the model is, asked of a child process before any rank starts: the gateway imports nothing that could tell."""

import asyncio
import os
import sys
from collections.abc import Mapping

import msgspec

from app.errors import FatalError
from app.settings.declaration import BUILT_IN_MODEL, Settings
from engines.contract.spec import EngineKind

INSPECT_TIMEOUT_S = 120.0  # the built-in model is built here, once; a hub may be slow


class ModelFacts(msgspec.Struct):
    """What a model's config.json says."""

    model: str  # a folder or a hub name, for the ranks to load
    is_moe: bool
    num_experts: int = 0
    architecture: str | None = None
    max_position_embeddings: int | None = None


class _Answer(msgspec.Struct):
    error: str | None = None


async def model_of(settings: Settings, environ: Mapping[str, str]) -> ModelFacts:
    """The model that these settings name. Raises FatalError when it cannot be used."""
    if settings.engine is EngineKind.SIMULATED:  # there is no model: its options say what it plays
        return ModelFacts(settings.public_name, is_moe=settings.engine_args.get("is_moe") is True)
    return await inspect_model(settings.model or BUILT_IN_MODEL, settings.revision, environ)


async def inspect_model(model: str, revision: str | None, environ: Mapping[str, str]) -> ModelFacts:
    """Asks `python -m engines inspect`. Raises FatalError when the model cannot be used."""
    command = [sys.executable, "-P", "-m", "engines", "inspect", "--lifeline", "--model", model]
    if revision is not None:
        command += ["--revision", revision]
    try:
        output, errors = await asyncio.wait_for(_output_of(command, environ), INSPECT_TIMEOUT_S)
    except TimeoutError:
        raise FatalError(
            f"model {model!r} could not be looked up within {INSPECT_TIMEOUT_S:g} s: check the network, or set "
            "HF_HUB_OFFLINE=1 to use what is cached",
            2,
        ) from None
    return _facts(model, output, errors)


async def _output_of(command: list[str], environ: Mapping[str, str]) -> tuple[bytes, bytes]:
    """What a command prints, on both streams. It ends when its standard input does, which is when this process does."""
    lifeline_end, lifeline = os.pipe()
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=lifeline_end,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environ,
            start_new_session=True,
        )
        try:
            return await child.communicate()
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
    finally:
        os.close(lifeline_end)
        os.close(lifeline)


def _facts(model: str, output: bytes, errors: bytes) -> ModelFacts:
    last = output.strip().splitlines()[-1:] or [b"{}"]
    try:
        answer = msgspec.json.decode(last[0], type=_Answer)
        if answer.error is None:
            return msgspec.json.decode(last[0], type=ModelFacts)
    except msgspec.DecodeError:
        tail = errors.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise FatalError(f"model {model!r} could not be looked at: {tail[0]}", 1) from None
    raise FatalError(answer.error, 2)
