"""/v1/embeddings of the simulated engine: unit vectors that are made from a hash of the text."""

import base64
import math
import struct
import time

from engines.simulated.answers import hash_of
from engines.simulated.bodies import EmbeddingRequest
from engines.simulated.texts import usage

DIMENSIONS = 8


def embed(request: EmbeddingRequest, request_id: str, model: str) -> dict[str, object]:
    """The answer to a request for vectors, in the shape of OpenAI's API."""
    vectors = [_vector(text.encoded) for text in request.inputs]
    told = [_as_base64(vector) if request.as_base64 else vector for vector in vectors]
    return {
        "id": f"embd-{request_id}",
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": [{"index": index, "object": "embedding", "embedding": one} for index, one in enumerate(told)],
        "usage": usage(sum(text.tokens for text in request.inputs), 0),
        "simulated": True,
    }


def _vector(encoded: bytes) -> list[float]:
    numbers = struct.unpack(f"<{DIMENSIONS}h", hash_of(b"embedding", encoded))
    raw = [number + 0.5 for number in numbers]  # never all 0
    length = math.sqrt(sum(number * number for number in raw))
    return [number / length for number in raw]


def _as_base64(vector: list[float]) -> str:
    """As 32-bit floats, which is what OpenAI's client asks for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
