"""What vLLM itself calls the model, in messages and metrics."""

from rank_specs import rank_spec

from engines.vllm_engine.arguments import engine_arguments


def test_vllm_calls_the_model_what_requests_call_it() -> None:
    assert engine_arguments(rank_spec(served_as="mine"))["served_model_name"] == "mine"
