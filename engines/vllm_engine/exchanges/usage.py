"""The tokens that an exchange took: the sums over its requests to the engine."""

from typing import Any


class RequestUsage:
    """One request's. What it puts out is either what has come since the last output, or all of it."""

    __slots__ = ("_is_delta", "cached_tokens", "completion_tokens", "prompt_tokens", "stopped_by_length")

    def __init__(self, *, is_delta: bool) -> None:
        self._is_delta = is_delta
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.cached_tokens = 0
        self.stopped_by_length = 0

    def add(self, output: Any) -> None:  # Any: vLLM's RequestOutput
        """An output of the engine."""
        if output.prompt_token_ids:
            self.prompt_tokens = len(output.prompt_token_ids)
        self.cached_tokens = output.num_cached_tokens or self.cached_tokens
        tokens = sum(len(part.token_ids) for part in output.outputs)
        self.completion_tokens = self.completion_tokens + tokens if self._is_delta else tokens
        self.stopped_by_length += sum(part.finish_reason == "length" for part in output.outputs)

    def add_pooled(self, output: Any) -> None:  # Any: vLLM's PoolingRequestOutput
        """The one output of a pooling request."""
        self.prompt_tokens = len(output.prompt_token_ids or ())
        self.cached_tokens = getattr(output, "num_cached_tokens", 0) or 0


class CallUsage:
    """All requests' together."""

    def __init__(self) -> None:
        self._requests: list[RequestUsage] = []

    def of_request(self, *, is_delta: bool) -> RequestUsage:
        """Where one more request counts."""
        self._requests.append(usage := RequestUsage(is_delta=is_delta))
        return usage

    @property
    def is_empty(self) -> bool:
        """Whether the engine was never asked for anything."""
        return not self._requests

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts."""
        return sum(request.prompt_tokens for request in self._requests)

    @property
    def completion_tokens(self) -> int:
        """Generated, by all sequences."""
        return sum(request.completion_tokens for request in self._requests)

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that were found in the prefix cache."""
        return sum(request.cached_tokens for request in self._requests)

    @property
    def stopped_by_length(self) -> int:
        """Sequences that ended for want of room."""
        return sum(request.stopped_by_length for request in self._requests)
