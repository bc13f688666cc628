"""One running server for all clients, and each client's environment."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.environments import DEFAULT_FOLDER, Client, make_environment
from tests.clients.server import MODEL, POOLING, Server, phalanx, vllm


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("clients")
    group.addoption("--server", choices=("phalanx", "vllm"), default="phalanx", help="Which server to start.")
    group.addoption("--base-url", help="A server that runs already, such as http://127.0.0.1:8000; it has these:")
    group.addoption("--model", default=MODEL, help="Its model's id.")
    group.addoption("--tokenizer", type=Path, help="Folder of its model's tokenizer; default: the built-in model's.")
    group.addoption("--api-key", help="A key that it takes; default: it wants none.")
    group.addoption("--environments", type=Path, default=DEFAULT_FOLDER, help="Folder of the clients' environments.")


@pytest.fixture(scope="session")
def server(
    request: pytest.FixtureRequest, trained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """What the clients talk to: Phalanx with the built-in model, unless an option says otherwise."""
    given = request.config.option
    if given.base_url:
        url = given.base_url.rstrip("/").removesuffix("/v1")
        yield Server(url, given.model, given.tokenizer or trained_model, given.api_key)
        return
    start = phalanx if given.server == "phalanx" else vllm
    with start(trained_model, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def embedding_server(
    request: pytest.FixtureRequest, dense_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of its own for embeddings: a model is served for them or for text, not for both."""
    given = request.config.option
    if given.base_url:
        pytest.skip("the server that --base-url names serves one model")
    start = phalanx if given.server == "phalanx" else vllm
    with start(dense_model, tmp_path_factory.mktemp("embedding-server"), POOLING) as running:
        yield running


@pytest.fixture(scope="session")
def straight(
    request: pytest.FixtureRequest, trained_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """vLLM's own server with the built-in model, to compare answers with."""
    if request.config.option.base_url and request.config.option.tokenizer:
        pytest.skip("the server that --base-url names has a model of its own")
    with vllm(trained_model, tmp_path_factory.mktemp("straight")) as running:
        yield running


@pytest.fixture(scope="session")
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Client]:
    """Gives a client by its name, with its environment made."""
    folder: Path = request.config.option.environments.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    def get(name: str) -> Client:
        return Client(make_environment(name, folder), tmp_path_factory.mktemp(name))

    return get
