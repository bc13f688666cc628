"""What a client is told that asks for what the served model does not do."""

import msgspec
from dispatch_bench import facts

from app.ranks.offer import endpoints_of, refusal

FACTS = msgspec.structs.replace(facts(), exchanges=["/v1/completions", "/tokenize"])


def test_what_it_does_is_not_refused_and_nothing_is_before_it_is_known() -> None:
    assert endpoints_of(FACTS) == ["/v1/batch_generate", "/v1/completions", "/tokenize"]
    assert [refusal("m", path, FACTS) for path in endpoints_of(FACTS)] == [None] * 3
    assert refusal("m", "/v1/embeddings", None) is None


def test_a_model_of_text_says_so_and_what_it_offers() -> None:
    said = refusal("m", "/v1/embeddings", FACTS)
    offered = "/v1/batch_generate, /v1/completions, /tokenize"
    assert said == f"'m' generates text and does not offer /v1/embeddings: it offers {offered}"
