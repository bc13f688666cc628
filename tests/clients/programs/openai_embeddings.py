"""What openai's package gets from a server of a model that makes embeddings."""

import math

import openai
from checking import Target, run_checks

TIMEOUT_S = 60


def check_embeddings_are_vectors_of_one_length(target: Target) -> None:
    target.needs("/v1/embeddings")
    client = openai.OpenAI(base_url=target.base_url, api_key=target.api_key, timeout=TIMEOUT_S)
    answer = client.embeddings.create(model=target.model, input=["France", "Japan"])
    assert [entry.index for entry in answer.data] == [0, 1] and answer.usage.prompt_tokens > 1, answer
    assert len({len(entry.embedding) for entry in answer.data}) == 1 and len(answer.data[0].embedding) > 1, answer
    as_numbers = client.embeddings.create(model=target.model, input="Japan", encoding_format="float")
    pairs = zip(as_numbers.data[0].embedding, answer.data[1].embedding, strict=True)  # by default it comes in base64
    assert all(math.isclose(one, other, abs_tol=1e-3) for one, other in pairs), (as_numbers, answer)


if __name__ == "__main__":
    run_checks(globals())
