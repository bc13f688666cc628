"""OpenAI's API: requests that a rank's engine answers with its own application. One route each; what they take and
give is OpenAI's, and Anthropic's, and vLLM's to say."""

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api import anthropic_errors
from app.api.auth import caller_of
from app.api.body import BodyLimits, read_json
from app.api.describing import Answers
from app.api.exchange_response import ExchangeResponse
from app.api.exchange_schemas import EXAMPLES, OTHER_TYPES, SCHEMAS, SHAPES
from app.api.plain_route import PlainRoute
from app.api.request_id import request_id_of
from app.api.state import gateway_of
from app.errors import TooSlow
from engines.contract.exchanges import Exchange

__all__ = ["ANSWERS", "SCHEMAS", "router"]
router = APIRouter(route_class=PlainRoute)


SUMMARIES = {
    Exchange.COMPLETIONS: "OpenAI's completions",
    Exchange.CHAT_COMPLETIONS: "OpenAI's chat completions",
    Exchange.RESPONSES: "OpenAI's responses, without stored state",
    Exchange.MESSAGES: "Anthropic's messages",
    Exchange.COUNT_TOKENS: "Anthropic's count of a message's tokens",
    Exchange.EMBEDDINGS: "OpenAI's embeddings",
    Exchange.COHERE_EMBED: "Cohere's embeddings",
    Exchange.POOLING: "vLLM's pooling",
    Exchange.CLASSIFY: "vLLM's classification",
    Exchange.SCORE: "vLLM's scores of pairs",
    Exchange.SCORE_V1: "The same",
    Exchange.RERANK: "Ranks documents by a query",
    Exchange.RERANK_V1: "The same, where Jina's clients look for it",
    Exchange.RERANK_V2: "The same, where Cohere's clients look for it",
    Exchange.TOKENIZE: "The tokens of a prompt",
    Exchange.DETOKENIZE: "The text of tokens",
}
ANSWERS = {
    str(path): Answers(
        answer.__name__,
        (403, 404, 408, 413, 415, 503),
        refused="AnthropicErrorAnswer" if path in anthropic_errors.PATHS else "ErrorAnswer",
        takes=body.__name__,
        requests={"request": {"value": EXAMPLES[path]}},
        other_types=OTHER_TYPES.get(path, ()),
    )
    for path, (body, answer) in SHAPES.items()
}


def _endpoint(path: Exchange) -> Callable[[Request], Awaitable[Response]]:
    async def exchange(request: Request) -> Response:
        gateway = gateway_of(request)
        gateway.availability.check()
        holding = gateway.memory.open()
        try:
            try:
                body = await read_json(request, BodyLimits.of(gateway.settings), holding, gateway.bodies)
            except TooSlow:
                gateway.availability.check()
                raise
            begun = gateway.exchanges.begin(path, body, caller_of(request), request_id_of(request), holding)
        except BaseException:
            holding.close()
            raise
        return ExchangeResponse(begun, holding, gateway.settings.keepalive_s)

    exchange.__doc__ = f"{SUMMARIES[path]}, answered by the engine's own application (docs/openai.md)."
    return exchange


for _path in Exchange:
    router.add_api_route(_path, _endpoint(_path), methods=["POST"], summary=SUMMARIES[_path])
