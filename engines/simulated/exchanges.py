"""Exchanges with the simulated engine: from a request in OpenAI's API to its answer, and what making it costs.

What a body asks for stands in bodies.py, what texts look like in texts.py.
"""

from collections.abc import Iterator

import msgspec

from engines.contract.exchanges import AnswerHead, Exchange, ExchangeHead
from engines.contract.protocol import Outcome, Result
from engines.simulated.answers import Planner, count_cut_off
from engines.simulated.bodies import (
    BodyRefused,
    Fields,
    TextRequest,
    read_chat,
    read_completion,
    read_embeddings,
    read_fields,
)
from engines.simulated.texts import TextAnswer
from engines.simulated.tokens import detokenize, tokenize
from engines.simulated.vectors import embed

OFFERED = (
    Exchange.COMPLETIONS,
    Exchange.CHAT_COMPLETIONS,
    Exchange.EMBEDDINGS,
    Exchange.TOKENIZE,
    Exchange.DETOKENIZE,
)
OFFERED_POOLING = (Exchange.EMBEDDINGS, Exchange.TOKENIZE, Exchange.DETOKENIZE)
JSON = "application/json"
EVENTS = AnswerHead(200, "text/event-stream; charset=utf-8")
MAX_MODEL_NAME = 1024  # characters of a model's name that are handed back

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct):
    """The answer to an exchange, and what it costs."""

    result: Result
    width: int = 1  # sequences
    steps: int = 0  # 0: it is answered at once
    tokens: int = 0  # KV cache that it holds while it runs
    events: Iterator[list[bytes]] | None = None  # of each step, when it streams


class Answerer:
    """Answers exchanges, as one model of one context length."""

    def __init__(self, model: str, max_model_len: int, planner: Planner, *, generates: bool = True) -> None:
        self.offered = OFFERED if generates else OFFERED_POOLING
        self._model = model
        self._max_model_len = max_model_len
        self._planner = planner

    def answer(self, attempt: int, head: ExchangeHead, body: bytes) -> Answer:
        """The answer to a body, whatever it holds: one that cannot be honoured gets an HTTP error."""
        if head.path not in self.offered:
            return _refuse(attempt, 404, "NotFoundError", f"the simulated engine does not answer {head.path}")
        try:
            return self._answer(attempt, head, read_fields(body))
        except BodyRefused as error:
            message = str(error)
        except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
            message = f"the body is malformed: {error}"
        return _refuse(attempt, 400, "BadRequestError", message)

    def _answer(self, attempt: int, head: ExchangeHead, fields: Fields) -> Answer:
        match head.path:
            case Exchange.TOKENIZE:
                return Answer(_whole(attempt, _encode(tokenize(fields, self._max_model_len))))
            case Exchange.DETOKENIZE:
                return Answer(_whole(attempt, _encode(detokenize(fields))))
            case Exchange.EMBEDDINGS:
                return self._embed(attempt, head, fields)
            case Exchange.CHAT_COMPLETIONS:
                request = read_chat(fields, self._planner, self._max_model_len)
            case _:
                request = read_completion(fields, self._planner, self._max_model_len)
        return self._generate(attempt, head, request, self._name(fields))

    def _generate(self, attempt: int, head: ExchangeHead, request: TextRequest, model: str) -> Answer:
        text = TextAnswer(head.path, head.request_id, model, request, self._max_model_len)
        result = Result(attempt, Outcome.OK) if request.stream else _whole(attempt, text.whole())
        result.prompt_tokens = text.prompt_tokens
        result.completion_tokens = text.completion_tokens
        result.stopped_by_length = count_cut_off([choice.generated for choice in text.choices])
        return Answer(
            result,
            width=len(text.choices),
            steps=text.steps,
            tokens=sum(choice.prompt_tokens + text.steps for choice in text.choices),
            events=text.events(request.stream) if request.stream else None,
        )

    def _embed(self, attempt: int, head: ExchangeHead, fields: Fields) -> Answer:
        request = read_embeddings(fields, self._max_model_len)
        result = _whole(attempt, _encode(embed(request, head.request_id, self._name(fields))))
        result.prompt_tokens = sum(text.tokens for text in request.inputs)
        return Answer(result, width=len(request.inputs), steps=1, tokens=result.prompt_tokens)

    def _name(self, fields: Fields) -> str:
        """The model's name in an answer: the one that was asked for, which somebody else has checked."""
        asked = fields.get("model")
        return asked[:MAX_MODEL_NAME] if isinstance(asked, str) else self._model


def _whole(attempt: int, body: bytes) -> Result:
    return Result(attempt, Outcome.OK, outputs=body, head=AnswerHead(200, JSON))


def _refuse(attempt: int, status: int, kind: str, message: str) -> Answer:
    body = _encode({"error": {"message": message, "type": kind, "param": None, "code": None}})
    return Answer(Result(attempt, Outcome.OK, outputs=body, head=AnswerHead(status, JSON)))
