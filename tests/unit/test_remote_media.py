"""What messages name elsewhere is not fetched, unless the operator says from where."""

import pytest
from rank_specs import rank_spec

from engines.vllm_engine.arguments import engine_arguments

ELSEWHERE = "http://127.0.0.1:9/x.png"  # a port where nobody listens


def test_media_are_fetched_from_nowhere() -> None:
    from vllm.multimodal.media import MediaConnector
    from vllm.multimodal.media.image import ImageMediaIO

    hosts = engine_arguments(rank_spec())["allowed_media_domains"]
    connector = MediaConnector(allowed_media_domains=hosts)
    with pytest.raises(ValueError, match="must be from one of the allowed domains"):
        connector.load_from_url(ELSEWHERE, ImageMediaIO())


def test_an_operator_may_allow_hosts() -> None:
    spec = rank_spec(engine_args={"allowed_media_domains": ["images.example"]})
    assert engine_arguments(spec)["allowed_media_domains"] == ["images.example"]
