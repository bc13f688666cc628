"""vLLM's own spans hang below the gateway's: real vLLM, and a collector."""

from pathlib import Path

import pytest

from tests.collector import collecting
from tests.service import serving, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_vllms_span_of_a_request_is_below_the_attempt_and_untraced_items_have_none(dense_model: Path) -> None:
    with collecting() as collector:
        flags = [
            str(dense_model),
            "--enforce-eager",
            "--otlp-traces-endpoint",
            collector.endpoint,
            "--trace-items",
            "2",
        ]
        with serving(*flags, engine="vllm", dp_size=1, variables={"OTEL_BSP_SCHEDULE_DELAY": "100"}) as service:
            answer = service.batch(["A canary of a prompt"] * 20, sampling_params={"max_tokens": 8, "stop": ["canary"]})
            assert answer["request_counts"]["ok"] == 20
            until(lambda: len(collector.named("llm_request")) >= 2, "vLLM's spans do not arrive", 30)
        generate = {span.span_id: span for span in collector.named("generate")}
        llm = collector.named("llm_request")
        assert len(generate) == len(llm) == 2
        assert {span.parent_id for span in llm} == set(generate)
        assert len({span.trace_id for span in (*llm, *generate.values(), *collector.named("batch"))}) == 1
        assert {span.resource["phalanx.incarnation"] for span in llm} == {"1"}
        assert "canary" not in str(collector.spans)
