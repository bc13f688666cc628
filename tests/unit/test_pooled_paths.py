"""Which of vLLM's routes for pooling models are answered."""

from types import SimpleNamespace

import pytest

from engines.vllm_engine.server_compat import has_handler


@pytest.mark.parametrize(
    ("path", "state", "expected"),
    [
        ("/v1/embeddings", {"serving_embedding": None}, False),
        ("/v2/embed", {"serving_embedding": None}, False),
        ("/v1/embeddings", {"serving_embedding": object()}, True),
        ("/classify", {"serving_embedding": None, "serving_classification": object()}, True),
        ("/v1/embeddings", {}, True),  # a vLLM that calls it otherwise
        ("/v1/completions", {"serving_embedding": None}, True),
    ],
)
def test_a_route_without_a_handler_is_not_offered(path: str, state: dict[str, object], expected: bool) -> None:
    application = SimpleNamespace(state=SimpleNamespace(**state))
    assert has_handler(application, path) is expected
