"""OpenAI's own client on /v1/files: what it sends is understood, and it understands what it is answered."""

from collections.abc import Iterator

import openai
import pytest

from tests.service import Service, starting

LINE = b'{"custom_id": "1", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Hello"}}\n'


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """No rank is needed."""
    with starting(dp_size=1) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none is asked for", max_retries=0) as client:
        yield client
        for file in client.files.list():
            client.files.delete(file.id)


def test_a_file_is_uploaded_found_read_and_deleted(client: openai.OpenAI) -> None:
    content = LINE * 20_000
    file = client.files.create(
        file=("requests.jsonl", content), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (file.filename, file.bytes, file.purpose, file.status) == (
        "requests.jsonl",
        len(content),
        "batch",
        "processed",
    )
    assert file.expires_at == file.created_at + 7200
    assert client.files.wait_for_processing(file.id) == client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == content
    with client.files.with_streaming_response.content(file.id, extra_headers={"Range": "bytes=-95"}) as answer:
        assert (answer.status_code, b"".join(answer.iter_bytes())) == (206, content[-95:])
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="there is no file") as refused:
        client.files.retrieve(file.id)
    assert refused.value.code == "file_not_found"


def test_a_list_is_followed_from_page_to_page_also_while_it_is_deleted(client: openai.OpenAI) -> None:
    ids = [client.files.create(file=LINE, purpose="user_data").id for _ in range(5)]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == ids
    seen = []
    for file in client.files.list(limit=2):
        seen.append(file.id)
        client.files.delete(file.id)
    assert seen == ids[::-1]
    assert client.files.list().data == []


def test_a_refusal_is_one_of_its_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="purpose is 'everything'") as refused:
        client.files.create(file=LINE, purpose="everything")  # type: ignore[arg-type]  # wrong on purpose
    assert refused.value.param == "purpose"
