"""Examples for /docs: requests that run as they stand, and what one of them is answered."""

from typing import Any

Json = dict[str, Any]  # Any: JSON

REQUESTS: dict[str, Json] = {
    "simple": {
        "summary": "Two prompts",
        "value": {
            "prompts": ["Hello, my name is", "The capital of France is"],
            "sampling_params": {"temperature": 0.8, "top_p": 0.95, "max_tokens": 16},
        },
    },
    "mixed": {
        "summary": "Text, token ids and parameters of a prompt's own",
        "value": {
            "prompts": [
                "Hello, my name is",
                [1, 15043, 29892],
                {
                    "custom_id": "fr-1",
                    "prompt": "The capital of France is",
                    "sampling_params": {"max_tokens": 20, "stop": ["\n"]},
                    "metadata": {"row": 17},
                },
            ],
            "sampling_params": {"temperature": 0.8, "max_tokens": 16},
            "timeout_s": 600,
        },
    },
    "stream": {
        "summary": "A stream: each result as soon as it is there",
        "value": {
            "prompts": ["Hello, my name is", "The capital of France is"],
            "sampling_params": {"max_tokens": 16},
            "stream": True,
        },
    },
    "chat": {
        "summary": "Conversations, through the model's chat template",
        "value": {
            "prompts": [
                {
                    "custom_id": "chat-1",
                    "messages": [
                        {"role": "system", "content": "Answer in one word."},
                        {"role": "user", "content": "What is the capital of France?"},
                    ],
                    "chat_template_kwargs": {"enable_thinking": False},
                },
                {"custom_id": "chat-2", "messages": [{"role": "user", "content": "And of Italy?"}]},
            ],
            "sampling_params": {"max_tokens": 32},
        },
    },
    "dry_run": {
        "summary": "Nothing runs: tokens, what would be refused, and how long it would take",
        "value": {
            "prompts": ["Hello, my name is", {"custom_id": "fr-1", "prompt": "The capital of France is"}],
            "sampling_params": {"n": 2, "max_tokens": 16},
            "dry_run": True,
        },
    },
    "seeded": {
        "summary": "The same random numbers every time, whichever rank runs what",
        "value": {
            "prompts": [
                {"custom_id": "story-1", "prompt": "Once upon a time"},
                {"custom_id": "story-2", "prompt": "Once upon a time", "sampling_params": {"n": 2, "seed": 7}},
            ],
            "sampling_params": {"seed": 42, "temperature": 1.0, "max_tokens": 24},
            "priority": 10,
        },
    },
}


REQUEST_LINES: tuple[Any, ...] = (  # Any: JSON
    {"object": "batch_generation.options", "sampling_params": {"max_tokens": 16}},
    "Hello, my name is",
    [1, 15043, 29892],
    {"custom_id": "fr-1", "prompt": "The capital of France is", "sampling_params": {"max_tokens": 20}},
)


def _usage(prompt: int, completion: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


ANSWER: Json = {
    "id": "batchgen-895a2be512fc4ae98e54cba57e43ede5",
    "object": "batch_generation",
    "model": "phalanx-tiny",
    "created_at": 1795355114,
    "results": [
        {
            "object": "batch_generation.result",
            "index": 0,
            "custom_id": None,
            "status": "ok",
            "outputs": [{"index": 0, "text": " Ada.", "finish_reason": "stop", "stop_reason": None}],
            "usage": _usage(6, 3),
            "rank": 0,
            "attempts": 1,
        },
        {
            "object": "batch_generation.result",
            "index": 1,
            "custom_id": "fr-1",
            "status": "error",
            "outputs": [],
            "error": {
                "code": "invalid_prompt",
                "message": "prompts[1] has neither prompt nor messages: give it one of them",
                "param": "prompts[1]",
                "retryable": False,
            },
            "usage": _usage(0, 0),
            "rank": None,
            "attempts": 0,
        },
    ],
    "request_counts": {"total": 2, "ok": 1, "error": 1, "cancelled": 0, "timeout": 0},
    "usage": _usage(6, 3),
    "stats": {
        "wall_s": 0.21,
        "queue_s": 0.0002,
        "tail_s": 0.0,
        "balance_ratio": 1.0,
        "stopped_by_length": 0,
        "ranks": [{"rank": 0, "items": 1, "prompt_tokens": 6, "completion_tokens": 3, "busy_s": 0.2}],
    },
}


DRY_RUN: Json = {
    "object": "batch_generation.dry_run",
    "model": "phalanx-tiny",
    "request_counts": {"total": 2, "accepted": 1, "refused": 1},
    "prompt_tokens": 6,
    "max_completion_tokens": 32,
    "predicted_completion_tokens": 19,
    "predicted_s": 0.4,
    "items": [
        {"index": 0, "custom_id": None, "prompt_tokens": 6, "max_completion_tokens": 32},
        {
            "index": 1,
            "custom_id": "fr-1",
            "prompt_tokens": 0,
            "max_completion_tokens": 0,
            "error": ANSWER["results"][1]["error"],
        },
    ],
}


LINES: tuple[Json, ...] = (
    {
        "object": "batch_generation.progress",
        "id": ANSWER["id"],
        "request_counts": {"total": 2, "ok": 0, "error": 1, "cancelled": 0, "timeout": 0},
        "running": 0,
        "waiting": 1,
    },
    ANSWER["results"][1],
    ANSWER["results"][0],
    {
        "object": "batch_generation.summary",
        **{name: ANSWER[name] for name in ("id", "model", "created_at", "request_counts", "usage", "stats")},
    },
)


def refusal(kind: str, message: str, param: str | None, code: str, retry_after_s: float | None = None) -> Json:
    """The body of an error."""
    body: Json = {"message": message, "type": kind, "param": param, "code": code}
    if retry_after_s is not None:
        body["retry_after_s"] = retry_after_s
    return {"error": body}


ERRORS: dict[int, Json] = {
    400: refusal(
        "invalid_request_error",
        "unknown field 'max_tokens': it belongs in sampling_params",
        "max_tokens",
        "invalid_request",
    ),
    401: refusal(
        "invalid_request_error",
        "there is no API key: send the header Authorization: Bearer KEY",
        "Authorization",
        "invalid_api_key",
    ),
    403: refusal(
        "invalid_request_error",
        "POST /v1/ranks/0/restart needs an admin's API key, and key-5f0c2a9e (nightly) is none: use one that was made "
        "with `phalanx api-keys create NAME --admin`",
        None,
        "admin_key_required",
    ),
    404: refusal("not_found_error", "there is no rank 7: they are 0 to 1", "rank", "rank_not_found"),
    408: refusal(
        "invalid_request_error",
        "65536 bytes of the body came in 30 s: its next part must come within 30 s (--body-timeout-s), and all of it "
        "with 1024 bytes a second (--min-body-rate)",
        None,
        "slow_body",
    ),
    409: refusal(
        "invalid_request_error",
        "rank 1 is starting: only one that is ready can be drained",
        "rank",
        "rank_not_ready",
    ),
    422: refusal(
        "invalid_request_error",
        "the Idempotency-Key 'night-7' stands for batchgen-0d1464ff6a0be954a968c31071d16d36, which came with another "
        "body: send the same body, or choose another key",
        "Idempotency-Key",
        "idempotency_key_reused",
    ),
    413: refusal(
        "invalid_request_error",
        "the batch has more than 100000 prompts, the most that are accepted in one (--max-batch-items): split it",
        "prompts",
        "batch_too_large",
    ),
    415: refusal(
        "invalid_request_error",
        "Content-Type is 'text/plain': it must be application/json, or application/x-ndjson for lines",
        "Content-Type",
        "unsupported_media_type",
    ),
    416: refusal(
        "invalid_request_error",
        "Range is 'bytes=900-999', and there are 812 bytes, numbered from 0: ask for some of them",
        "Range",
        "range_not_satisfiable",
    ),
    429: refusal(
        "rate_limit_error",
        "500000 items with 8000000 tokens are waiting, and there is no room for 1000 more with 16000 "
        "(--max-waiting-items 500000, --max-waiting-tokens 2000000000): try again in about 4 s",
        None,
        "backlog_full",
        3.9,
    ),
    500: refusal(
        "internal_server_error",
        "the gateway failed on this request; its log says why, under the X-Request-ID of this answer",
        None,
        "internal_error",
    ),
    503: refusal(
        "service_unavailable_error",
        "no rank is ready: rank 0 is starting (stage loading): try again in 5 s",
        None,
        "no_rank_ready",
        5.0,
    ),
}
