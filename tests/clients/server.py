"""The server that clients are tried on: Phalanx, vLLM's own beside it, or one that runs already (--base-url)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from app.keys.key import KeyLimits
from app.keys.store import KeysFile
from bench.engine_settings import DEFAULTS, EngineSettings
from bench.vllm_server import VllmServer
from engines.vllm_engine.variables import STRICT_TOOLS
from tests.documented import filled, serve_flags
from tests.service import bearer, serving

MODEL = "phalanx-tiny"
LIMITED_REQUESTS_PER_S = 0.5  # the second request within two seconds is refused
TOOLS = serve_flags("## What there is")  # without them vLLM calls none
POOLING = serve_flags("## Embeddings, scores and classes", 1)
NO_KEY = "none-needed"  # clients insist on one

OPTIONAL = ("/v1/batches", "/v1/embeddings", "/v1/files", "/v1/models/{model}")  # other servers may do without these


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str  # as http://host:port
    model: str
    tokenizer: Path  # a folder with the model's tokenizer
    api_key: str | None = None
    limited_key: str | None = None  # one that may send LIMITED_REQUESTS_PER_S

    @property
    def openai_url(self) -> str:
        """What clients call the base URL."""
        return f"{self.url}/v1"

    @property
    def shown_key(self) -> str:
        """What a client is given that insists on a key."""
        return self.api_key or NO_KEY

    def filled(self, example: str) -> str:
        """An example of docs/openai.md, for this server."""
        return filled(example, self.url, self.shown_key, self.model)

    def routes(self) -> set[str]:
        """Its paths, as its /openapi.json lists them."""
        headers = bearer(self.api_key) if self.api_key else {}
        answer = httpx.get(f"{self.url}/openapi.json", headers=headers, timeout=60, trust_env=False)
        return set(answer.raise_for_status().json()["paths"])

    def lacks(self) -> list[str]:
        """Routes that clients do without here."""
        return sorted(set(OPTIONAL) - self.routes())


@contextmanager
def phalanx(model: Path, folder: Path, flags: Sequence[str] = TOOLS) -> Iterator[Server]:
    """`phalanx serve`, with two keys and these flags of vLLM's."""
    keys = KeysFile(folder / "keys.json")
    key = keys.create("client").secret
    limited = keys.create("limited", limits=KeyLimits(requests_per_s=LIMITED_REQUESTS_PER_S)).secret
    own = ("--served-model-name", MODEL, "--enforce-eager", "--api-keys-file", str(keys.path))
    with serving(str(model), *own, "--", *flags, engine="vllm", dp_size=1, api_key=key) as service:
        yield Server(service.url, MODEL, model, key, limited)


@contextmanager
def vllm(model: Path, folder: Path, flags: Sequence[str] = TOOLS) -> Iterator[Server]:
    """`vllm serve`, with what Phalanx chooses by itself on a CPU, how structures are held included, and these flags."""
    arguments = DEFAULTS["cpu"] | {"structured_outputs_config": {"backend": "guidance"}}
    settings = EngineSettings(model=str(model), is_moe=False, dp_size=1, device="cpu", arguments=arguments)
    server = VllmServer(settings, folder, ["--served-model-name", MODEL, *flags])
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(STRICT_TOOLS, "0")
            server.start()
        yield Server(server.url, MODEL, model)
    finally:
        server.stop()
