"""Requests that are refused as a whole: status, place, words, and the same shape everywhere."""

import http.client
import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

from tests.service import BATCH, Json, Service, serving

JSON_TYPE = {"Content-Type": "application/json"}
GOOD: Json = {"prompts": ["a"]}
LIMITS = ("--max-body-bytes", "100KiB", "--max-batch-items", "50", "--max-waiting-tokens", "100000")


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving(*LIMITS) as service:
        yield service
        assert service.batch(["still fine"])["request_counts"]["ok"] == 1


def error_of(answer: httpx.Response, status: int) -> Json:
    """The error of an answer, which must have the shape of all errors."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert list(body) == ["error"]
    error: Json = body["error"]
    assert set(error) - {"retry_after_s"} == {"message", "type", "param", "code"}
    assert error["message"] and len(error["message"]) < 1000
    return error


def post(service: Service, body: bytes, **headers: str) -> httpx.Response:
    return service.client.post(BATCH, content=body, headers=JSON_TYPE | headers)


# ---------------------------------------------------------------- 400


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"prompts": []}, "prompts", "length >= 1"),
        ({"prompts": "a"}, "prompts", "expected array"),
        ({"prompts": None}, "prompts", "expected array"),
        ({"max_tokens": 5}, "max_tokens", "it belongs in sampling_params"),
        ({"messages": []}, "messages", "it belongs in an entry of prompts"),
        ({"timeout_s": 0}, "timeout_s", "> 0"),
        ({"timeout_s": 100_000}, "timeout_s", "at most 86400 is accepted (--max-timeout-s)"),
        ({"priority": "high"}, "priority", "expected int"),
        ({"priority": 2**40}, "priority", "<= 2147483647"),
        ({"stream": "yes"}, "stream", "expected bool"),
        ({"stream": 1}, "stream", "expected bool"),
        ({"background": True, "stream": True}, "stream", "background and stream are both true"),
        ({"dry_run": True, "stream": True}, "stream", "leave stream out"),
        ({"dry_run": True, "sampling_params": {"logprobs": 5}}, "sampling_params.logprobs", "simulated engine"),
        ({"resume": "x"}, "resume", "unknown field"),
        ({"sampling_params": []}, "sampling_params", "expected object"),
        ({"sampling_params": {"n": "2"}}, "sampling_params.n", "(it is '2')"),
        ({"sampling_params": {"n": 1000}}, "sampling_params.n", "at most 128 are accepted (--max-n)"),
        ({"sampling_params": {"max_token": 5}}, "sampling_params.max_token", "did you mean 'max_tokens'?"),
        ({"sampling_params": {"output_kind": 2}}, "sampling_params.output_kind", "the service chooses it"),
        ({"sampling_params": {"extra_args": {}}}, "sampling_params.extra_args", "is not accepted"),
        ({"sampling_params": {"temperature": -1}}, "sampling_params.temperature", "(it is -1)"),
        ({"sampling_params": {"logprobs": 5}}, "sampling_params.logprobs", "simulated engine"),  # the engine's own word
        ({"sampling_params": {"seed": 2**64}}, "sampling_params.seed", "<= 9223372036854775807"),
        (
            {"sampling_params": {"structured_outputs": {"json": {"const": 2**70}}}},
            "sampling_params.structured_outputs.json",
            "64 bits",
        ),
    ],
)
def test_invalid_requests_name_the_place(service: Service, fields: Json, param: str, said: str) -> None:
    error = error_of(service.client.post(BATCH, json=GOOD | fields), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert said in error["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "not valid JSON"),
        (b"[]", "expected object"),
        (b'{"prompts":["a"]', "not valid JSON"),
        (b'{"prompts":[NaN]}', "not valid JSON"),
        (b'{"prompts":["a"],"timeout_s":Infinity}', "not valid JSON"),
        (b'{"prompts":["a"],"model":"\xff"}', "not valid UTF-8"),
        (b'{"prompts":[' + b"[" * 20_000 + b"]" * 20_000 + b"]}", "nested too deeply"),
        (b'{"prompts":["a"],"priority":1' + b"0" * 5000 + b"}", "priority"),
        (b'{"prompts":["a"],"sampling_params":{"temperature":1e999}}', "out of range"),
        (b'{"prompts":["a"],"sampling_params":{"stop":"\\udfff"}}', "half a character"),
    ],
)
def test_broken_bodies_are_refused(service: Service, body: bytes, said: str) -> None:
    assert said in error_of(post(service, body), 400)["message"]


@pytest.mark.parametrize(
    ("stream", "accept"),
    [(True, "application/json"), (True, "application/x-ndjson;q=0"), (False, "application/x-ndjson")],
)
def test_a_form_that_the_accept_header_refuses_is_400(service: Service, stream: bool, accept: str) -> None:
    error = error_of(post(service, json.dumps(GOOD | {"stream": stream}).encode(), Accept=accept), 400)
    assert (error["param"], error["code"]) == ("Accept", "not_acceptable")
    assert accept in error["message"]


def test_names_that_are_not_the_servers_are_refused_on_loopback(service: Service) -> None:
    for path in (BATCH, "/health", "/metrics", "/docs"):
        answer = service.client.request("GET", path, headers={"Host": "evil.example"})
        error = error_of(answer, 400)
        assert (error["param"], error["code"]) == ("Host", "host_not_allowed")
    assert service.client.get("/health", headers={"Host": f"localhost:{service.port}"}).status_code == 200


def test_a_web_page_gets_no_permission(service: Service) -> None:
    page = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [
        service.client.options(BATCH, headers=page),
        service.client.get("/v1/ranks", headers=page),
        service.client.post(BATCH, content=json.dumps(GOOD), headers={"Content-Type": "text/plain"} | page),
    ]
    assert [answer.status_code for answer in answers] == [405, 200, 403]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]


# ---------------------------------------------------------------- 404, 405, 415


def test_an_unknown_model_is_404_and_says_which_there_is(service: Service) -> None:
    error = error_of(service.post(["a"], model="gpt-x"), 404)
    assert (error["param"], error["code"], error["type"]) == ("model", "model_not_found", "not_found_error")
    assert "'gpt-x'" in error["message"] and "'phalanx-simulated'" in error["message"]
    assert service.post(["a"], model="phalanx-simulated").status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "path_not_found"),
        ("POST", "/", 404, "path_not_found"),
        ("GET", "/v1/ranks/7", 404, "rank_not_found"),
        ("GET", "/v1/ranks/-1", 404, "rank_not_found"),
        ("GET", "/v1/ranks/one", 400, "invalid_request"),
        ("PUT", BATCH, 405, "method_not_allowed"),
        ("DELETE", BATCH, 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
def test_errors_of_routing_have_the_same_shape(
    service: Service, method: str, path: str, status: int, code: str
) -> None:
    answer = service.client.request(method, path)
    assert error_of(answer, status)["code"] == code
    assert ("allow" in answer.headers) == (status == 405)
    if path == BATCH:
        assert answer.headers["allow"] == "GET, POST"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_no_path_is_redirected_to_another(service: Service, method: str) -> None:
    """A redirect would name http:// and the Host of the request: wrong behind TLS, and a client may drop its body."""
    documented = [path.replace("{rank}", "0") for path in service.client.get("/openapi.json").json()["paths"]]
    for path in (*documented, "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect", "/v1"):
        for slashed in (f"{path}/", f"{path}//", f"/{path}/"):
            answer = service.client.request(method, f"{service.url}{slashed}", follow_redirects=False)
            assert answer.status_code == 404 and "location" not in answer.headers
            if method != "HEAD":
                assert error_of(answer, 404)["code"] == "path_not_found"
    error = error_of(service.client.post(f"{BATCH}/", json=GOOD, follow_redirects=False), 404)
    assert error["message"].startswith(f"there is nothing at {BATCH}/: leave out the slash at its end")


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
def test_only_json_is_read(service: Service, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    answer = service.client.post(BATCH, content=json.dumps(GOOD).encode(), headers=headers)
    error = error_of(answer, 415)
    assert (error["param"], error["code"]) == ("Content-Type", "unsupported_media_type")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/json ;a=b"]
)
def test_json_may_be_called_json_in_any_way(service: Service, content_type: str) -> None:
    answer = service.client.post(BATCH, content=json.dumps(GOOD).encode(), headers={"Content-Type": content_type})
    assert answer.status_code == 200


def test_a_compressed_body_is_refused(service: Service) -> None:
    error = error_of(post(service, b"x", **{"Content-Encoding": "gzip"}), 415)
    assert error["param"] == "Content-Encoding"


# ---------------------------------------------------------------- 413


def test_a_body_that_is_declared_too_large_is_not_waited_for(service: Service) -> None:
    client = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    client.putrequest("POST", BATCH)
    for name, value in (JSON_TYPE | {"Content-Length": "999999999"}).items():
        client.putheader(name, value)
    client.endheaders()
    answer = client.getresponse()
    assert answer.status == 413
    error = json.loads(answer.read())["error"]
    client.close()
    assert error["code"] == "body_too_large" and "--max-body-bytes" in error["message"]


def test_a_body_that_turns_out_too_large_is_refused_while_it_comes(service: Service) -> None:
    def endless() -> Iterator[bytes]:
        yield b'{"prompts":["'
        for _ in range(200):
            yield b"x" * 1024
        yield b'"]}'

    error = error_of(service.client.post(BATCH, content=endless(), headers=JSON_TYPE), 413)
    assert error["code"] == "body_too_large"
    assert "102400 bytes" in error["message"]


def test_a_body_without_a_declared_length_is_read(service: Service) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b'{"prom', b'pts":["a', b'"]}')

    assert service.client.post(BATCH, content=pieces(), headers=JSON_TYPE).status_code == 200


def test_a_batch_that_can_never_fit_names_the_limit(service: Service) -> None:
    error = error_of(service.post(["a"] * 51), 413)
    assert (error["param"], error["code"]) == ("prompts", "batch_too_large")
    assert "more than 50 prompts, the most that are accepted in one (--max-batch-items)" in error["message"]
    error = error_of(service.post(["a"] * 13, sampling_params={"max_tokens": 8_000}), 413)
    assert "--max-waiting-tokens" in error["message"]
    assert service.batch(["a"] * 50)["request_counts"]["ok"] == 50


def test_tokens_beyond_the_context_take_no_room(service: Service) -> None:
    answer = service.batch(["a"] * 3, sampling_params={"max_tokens": 2**31 - 1, "n": 2})
    assert answer["usage"]["completion_tokens"] == 3 * 2 * (8192 - 1)


# ---------------------------------------------------------------- headers of every answer


def test_a_safe_request_id_is_kept_and_any_other_replaced(service: Service) -> None:
    for path in ("/health", "/nothing", "/v1/ranks"):
        assert service.client.get(path, headers={"X-Request-ID": "run-7:a"}).headers["x-request-id"] == "run-7:a"
        for unsafe in ("two words", "x" * 200, "<script>"):
            answer = service.client.get(path, headers={"X-Request-ID": unsafe})
            assert answer.headers["x-request-id"].startswith("req-")
    assert post(service, json.dumps(GOOD).encode(), **{"X-Request-ID": "mine"}).headers["x-request-id"] == "mine"


def test_errors_are_what_the_documentation_says(service: Service) -> None:
    document = service.client.get("/openapi.json").json()
    schema: dict[str, Any] = {"$ref": "#/components/schemas/ErrorAnswer", "components": document["components"]}
    for answer in (service.post([]), service.client.get("/nothing"), service.post(["a"] * 51)):
        jsonschema.Draft202012Validator(schema).validate(answer.json())
