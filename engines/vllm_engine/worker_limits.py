"""What vLLM's workers have room for, beyond what the contract bounds: what only this model and its tokenizer can tell.

Model Runner V2, the default on GPUs, keeps parameters in buffers of a fixed size (vllm/v1/worker/gpu/sample), and
whatever is larger ends the engine core with all that it runs. The limits hold for the other runner, too.
"""

from typing import Any

from engines.vllm_engine import compat

MAX_STOP_TOKEN_IDS = 128  # with min_tokens, the model's own end tokens counted in
MAX_BAD_WORDS, MAX_BAD_WORD_TOKENS = 128, 1024  # vLLM's defaults; both can be set by variables of its own


class WorkerLimit(ValueError):
    """Parameters that a worker could not hold. `parameter` is the field to blame, as in vLLM's own errors."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter} {message}")
        self.parameter = parameter


def check_runner(params: Any, config: Any) -> None:  # Any: vLLM's SamplingParams and VllmConfig
    """Raises WorkerLimit for what would change the answers to other requests.

    The first model runner gives all requests of a step the logprobs of these tokens, and none of their own
    (vllm/v1/sample/sampler.py).
    """
    if getattr(params, "logprob_token_ids", None) and not compat.runs_model_runner_v2(config):
        raise WorkerLimit(
            "logprob_token_ids",
            "needs vLLM's Model Runner V2, which this model or device has not: leave it out, and use logprobs",
        )


def check(params: Any, vocab_size: int) -> None:  # Any: vLLM's SamplingParams
    """Raises WorkerLimit. The parameters are as the engine core gets them, with the model's own stop tokens."""
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(params, name) or 0
        if count > vocab_size:
            raise WorkerLimit(name, f"is {count}, and the vocabulary has {vocab_size} tokens: lower it, or set -1")
    stops = len(params.all_stop_token_ids)
    if params.min_tokens > 0 and stops > MAX_STOP_TOKEN_IDS:
        raise WorkerLimit(
            "stop_token_ids",
            f"has {stops} entries with the model's own, at most {MAX_STOP_TOKEN_IDS} are accepted together with "
            "min_tokens: shorten it, or leave min_tokens out",
        )
    if params.bad_words_token_ids:
        _check_bad_words(params.bad_words_token_ids)


def _check_bad_words(words: list[list[int]]) -> None:
    """Of a word that has other tokens behind a space, both forms are there."""
    from vllm import envs

    max_words = getattr(envs, "VLLM_MAX_NUM_BAD_WORDS", MAX_BAD_WORDS)
    max_tokens = getattr(envs, "VLLM_MAX_BAD_WORDS_TOTAL_TOKENS", MAX_BAD_WORD_TOKENS)
    if len(words) > max_words:
        raise WorkerLimit("bad_words", f"stands for {len(words)} words, at most {max_words} are accepted: shorten it")
    tokens = sum(map(len, words))
    if tokens > max_tokens:
        raise WorkerLimit("bad_words", f"has {tokens} tokens in all, at most {max_tokens} are accepted: shorten it")
