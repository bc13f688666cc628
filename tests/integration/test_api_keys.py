"""API keys on a running service: who is let in, what a key may do, and changes without a restart."""

import http.client
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.keys.key import KeyLimits, NewKey
from app.keys.store import KeysFile
from tests.service import BATCH, COMMAND, Json, Service, as_object, bearer, serving, until

PLAIN = "plain"
LINK = "tcp://10.0.0.1:8000"  # what Kubernetes sets for a Service called vllm
RELOADED_S = 30.0  # for what takes a second on an idle machine


class Keys:
    """A file of keys, as the tests make them and as the command line changes them."""

    def __init__(self, folder: Path) -> None:
        self.file = KeysFile(folder / "keys.json")
        self.boss = self.file.create("boss", admin=True)
        self.plain = self.file.create(PLAIN)

    @property
    def flags(self) -> tuple[str, str]:
        return "--api-keys-file", str(self.file.path)

    def command(self, *args: str) -> str:
        """`phalanx api-keys`, in a process of its own."""
        done = subprocess.run(
            [COMMAND, "api-keys", *args, "--file", str(self.file.path)], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()


@pytest.fixture(scope="module")
def keys() -> Iterator[Keys]:
    with tempfile.TemporaryDirectory(prefix="px-keys-") as folder:
        yield Keys(Path(folder))


@pytest.fixture(scope="module")
def service(keys: Keys) -> Iterator[Service]:
    """Its client shows an admin's key. Each rank runs four sequences, and makes a step in 10 ms."""
    flags = ("--prefetch", "2", "--fairness-quantum-tokens", "200", "--log-level", "debug", *keys.flags)
    variables = {"PHALANX_API_KEY": "phx-of-whoever-starts-it", "PHALANX_LOG_LEVEL": "info", "VLLM_PORT": LINK}
    engine = {"step_ms": 10, "max_num_seqs": 4, "shared_memory_kib": 1}
    with serving(*flags, api_key=keys.boss.secret, variables=variables, **engine) as service:
        until(lambda: "Authorization: Bearer $PHALANX_API_KEY" in service.log, "the line to paste has no key")
        yield service


@pytest.fixture(autouse=True)
def idle_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "service" in request.fixturenames:
        service: Service = request.getfixturevalue("service")
        until(service.is_idle, "something is still there")


def ask(service: Service, path: str, key: NewKey | str | None, method: str = "GET", **fields: object) -> httpx.Response:
    """A request that shows this key, or none."""
    secret = key.secret if isinstance(key, NewKey) else key
    headers = {} if secret is None else bearer(secret)
    body = {"json": fields} if fields else {}
    return httpx.request(method, service.url + path, headers=headers, timeout=60, **body)  # type: ignore[arg-type]  # JSON


def send(service: Service, key: NewKey | str | None, **fields: object) -> httpx.Response:
    return ask(service, BATCH, key, "POST", **{"prompts": ["a"], "sampling_params": {"max_tokens": 1}} | fields)


def error_of(answer: httpx.Response, status: int) -> Json:
    assert answer.status_code == status, answer.text
    found: Json = answer.json()["error"]
    return found


def urllib_error(service: Service, secret: str) -> tuple[int, str, str | None]:
    """What urllib, which closes after each request, hears of one of 10 MB: status, code, and what to do about it."""
    client = urllib.request.build_opener()
    client.addheaders = list(bearer(secret).items())
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.open(service.url + BATCH, b" " * 10_000_000, RELOADED_S)
    with refused.value as answer:
        code = as_object(answer.read().decode())["error"]["code"]
        return answer.status, code, answer.headers["Retry-After"] or answer.headers["WWW-Authenticate"]


# ---------------------------------------------------------------- who is let in


def test_without_a_key_or_with_a_wrong_one_there_is_401(service: Service) -> None:
    for path in ("/v1/ranks", "/v1/ranks/0", "/v1/models", "/metrics", "/v1/nothing", "/"):
        for key, said in ((None, "there is no API key"), ("phx-wrong", "is unknown here, or was revoked")):
            answer = ask(service, path, key)
            error = error_of(answer, 401)
            assert (error["code"], answer.headers["www-authenticate"]) == ("invalid_api_key", "Bearer")
            assert said in error["message"] and answer.headers["x-request-id"]
    assert error_of(send(service, None), 401)["code"] == "invalid_api_key"
    assert service.metric("phalanx_http_requests_total", status="401") >= 13


def test_a_client_that_closes_after_its_large_request_gets_its_401(service: Service) -> None:
    assert urllib_error(service, "phx-wrong") == (401, "invalid_api_key", "Bearer")


def test_with_a_key_work_is_done(service: Service, keys: Keys) -> None:
    answer = send(service, keys.plain)
    assert answer.status_code == 200 and answer.json()["request_counts"]["ok"] == 1
    for path in ("/v1/ranks", "/v1/models", "/metrics"):
        assert ask(service, path, keys.plain).status_code == 200


def test_probes_and_documentation_need_no_key(service: Service) -> None:
    for path in ("/health", "/health/ready", "/health/live", "/docs", "/openapi.json"):
        assert ask(service, path, None).status_code == 200


# ---------------------------------------------------------------- limits


def test_requests_a_second_are_limited_before_the_body_is_read(service: Service, keys: Keys) -> None:
    slow = keys.file.create("slow", limits=KeyLimits(requests_per_s=0.01))
    until(lambda: ask(service, "/v1/models", slow).status_code != 401, "the key is not known", RELOADED_S)
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    connection.putrequest("POST", BATCH)
    for name, value in (bearer(slow.secret) | {"Content-Type": "application/json", "Content-Length": "100"}).items():
        connection.putheader(name, value)
    connection.endheaders()  # and nothing follows
    answer = connection.getresponse()
    error = as_object(answer.read().decode())["error"]
    connection.close()
    assert (answer.status, error["code"], answer.headers["retry-after"]) == (429, "rate_limit_exceeded", "60")
    assert 60 < error["retry_after_s"] <= 100
    assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert answer.headers["x-ratelimit-reset-requests"].startswith("1m")
    assert urllib_error(service, slow.secret) == (429, "rate_limit_exceeded", "60")
    assert send(service, keys.plain).status_code == 200


def test_items_waiting_are_limited_for_each_key(service: Service, keys: Keys) -> None:
    small = keys.file.create("small", limits=KeyLimits(max_waiting_items=30))
    until(lambda: send(service, small).status_code == 200, "the key is not known", RELOADED_S)
    send(service, keys.plain, prompts=["a"] * 40, sampling_params={"max_tokens": 10})  # something to measure
    with service.begin(["a"] * 30, api_key=small.secret, sampling_params={"max_tokens": 3000}):
        until(lambda: service.backlog == 18, "it does not wait")  # the ranks hold six items each
        answer = send(service, small, prompts=["b"] * 13)
        error = error_of(answer, 429)
        assert (error["type"], error["code"]) == ("rate_limit_error", "key_backlog_full")
        assert "has 18 items waiting, and may have 30" in error["message"]
        assert 1 < error["retry_after_s"] < 300  # for one item of 3000 tokens; 800 tokens a second are done
        assert int(answer.headers["retry-after"]) >= 1
        limits = answer.headers["x-ratelimit-limit-items"], answer.headers["x-ratelimit-remaining-items"]
        assert limits == ("30", "12")
        with service.begin(["c"] * 50, api_key=keys.plain.secret):
            until(lambda: service.backlog == 68, "another key's items are not admitted")
    answer = send(service, small, prompts=["b"] * 31)
    assert error_of(answer, 413)["code"] == "batch_too_large"
    assert "may have 30 waiting" in answer.text


def test_priorities_are_limited_for_each_key(service: Service, keys: Keys) -> None:
    patient = keys.file.create("patient", limits=KeyLimits(min_priority=5, max_priority=9))
    until(lambda: send(service, patient).status_code == 200, "the key is not known", RELOADED_S)
    error = error_of(send(service, patient, priority=4), 400)
    assert (error["param"], error["code"]) == ("priority", "priority_not_allowed")
    assert "priority is 4: this API key may use 5 to 9" in error["message"]
    assert send(service, patient, priority=5).status_code == 200
    batch = send(service, patient).json()["id"]  # without a priority: the nearest to 0 that it may use
    assert [fact["priority"] for fact in service.facts("batch_admitted", batch=batch)] == [5]


# ---------------------------------------------------------------- changes without a restart


def test_keys_are_made_and_revoked_while_it_runs(service: Service, keys: Keys) -> None:
    secret = keys.command("create", "passing")
    until(lambda: ask(service, "/v1/models", secret).status_code == 200, "the key is not known", RELOADED_S)
    with service.begin(["a"] * 8, api_key=secret, sampling_params={"max_tokens": 200}) as batch:
        until(lambda: sum(service.held) > 0, "it does not run")
        keys.command("revoke", "passing")
        until(lambda: ask(service, "/v1/models", secret).status_code == 401, "the key is still known", RELOADED_S)
        assert error_of(send(service, secret), 401)["code"] == "invalid_api_key"
        assert batch.answer()["request_counts"]["ok"] == 8  # what was admitted is finished


def test_a_file_that_becomes_unusable_changes_nothing(service: Service, keys: Keys) -> None:
    text = keys.file.path.read_bytes()
    service.errors_expected = True
    try:
        keys.file.path.write_bytes(text[:-30])
        until(lambda: '"api_keys_unusable"' in service.log, "it is not reported", RELOADED_S)
        assert send(service, keys.plain).status_code == 200
    finally:
        keys.file.path.write_bytes(text)
    until(lambda: '"api_keys_readable_again"' in service.log, "it is not read again", RELOADED_S)
    (event,) = service.facts("api_keys_unusable")
    assert str(keys.file.path) in event["reason"]


# ---------------------------------------------------------------- fair shares


def test_a_key_with_many_batches_gets_no_more_than_a_key_with_one(service: Service, keys: Keys) -> None:
    """Sixteen batches of 25 items against one of 100: half of what is done meanwhile is the one's."""
    params = {"max_tokens": 10}
    before = len(service.facts("batch_admitted"))
    many = [service.begin(["a"] * 25, api_key=keys.boss.secret, sampling_params=params) for _ in range(16)]
    until(lambda: len(service.facts("batch_admitted")) == before + 16, "they are not under way")
    one = send(service, keys.plain, prompts=["b"] * 100, sampling_params=params).json()
    walls_s = []
    for batch in many:
        answer = batch.answer()
        assert answer["request_counts"]["ok"] == 25
        walls_s.append(answer["stats"]["wall_s"])
    assert one["request_counts"]["ok"] == 100
    # After 200 of 500 items, where turns between batches alone would have it end with the last.
    assert one["stats"]["wall_s"] < 0.7 * max(walls_s)


# ---------------------------------------------------------------- what is not told


def test_nothing_of_a_request_reaches_a_log(service: Service, keys: Keys) -> None:
    """At log level debug, in the gateway's log and in the ranks', whether a request is answered or refused."""
    secrets = ["canary-prompt", "canary-stop", "canary-id", "canary-key", "0.123456789"]
    params = {"stop": ["canary-stop"], "temperature": 0.123456789, "max_tokens": 20}
    fields = {"prompts": [{"prompt": "canary-prompt", "custom_id": "canary-id"}], "sampling_params": params}
    outputs = send(service, keys.plain, **fields).json()["results"][0]["outputs"]
    for refused in ({"priority": "canary-prompt"}, {"sampling_params": params | {"n": "canary-stop"}}):
        assert send(service, keys.plain, **fields | refused).status_code == 400
    assert send(service, "canary-key", **fields).status_code == 401
    with service.begin(["canary-prompt"] * 30, sampling_params=params | {"max_tokens": 8000}):
        until(lambda: service.backlog > 0, "it does not wait")
    until(lambda: cancelled_by(service, keys.boss), "the lost client's batch is not reported, or not as this key's")
    logs = [service.log, *(path.read_text() for path in service.folder.rglob("rank-*.log"))]
    assert len(logs) == 3
    for new in (keys.boss, keys.plain):
        secrets += [new.secret, new.key.sha256]
    secrets.append(outputs[0]["text"])
    assert all(len(secret) > 8 for secret in secrets)
    assert not [secret for secret in secrets for log in logs if secret in log]
    assert "bearer" not in str(service.events()).lower()  # the line to paste, on stdout, has it


def cancelled_by(service: Service, key: NewKey) -> list[Json]:
    """What the log says of batches whose clients are gone: who they were, by the id of the key."""
    ids = {"api_key_id": key.key.id, "tenant": key.key.tenant_name}
    return [fact for fact in service.facts("client_disconnected", **ids) if fact["request_id"]]


def test_the_ranks_inherit_neither_keys_nor_what_kubernetes_set(service: Service) -> None:
    # A rank's title lies where its environment was; a process that it has started shows what it was given.
    trackers = [psutil.Process(pid) for pid in service.titled("resource_tracker")]
    assert len(trackers) == 2
    inherited = {name for tracker in trackers for name in tracker.environ()}
    assert not [name for name in inherited if name.startswith("PHALANX_") or name == "VLLM_PORT"]
    assert "PATH" in inherited
    assert [fact["level"] for fact in service.facts("variable_ignored", variable="VLLM_PORT")] == ["warning"]


def test_what_comes_from_a_ranks_log_needs_an_admins_key(keys: Keys) -> None:
    flags = [*keys.flags, "--restart-backoff-s", "60"]  # a new life would begin a new part of the log
    with serving(*flags, api_key=keys.boss.secret, choke_on="bone", step_ms=1) as service:
        service.errors_expected = True
        with service.begin(["a bone"], api_key=keys.plain.secret):
            failed = until(
                lambda: next((rank for rank in service.ranks() if rank["last_error"] and rank["log_tail"]), None),
                "no rank has failed, or the end of its log is missing",
            )
        assert "choked" in failed["last_error"]
        path = f"/v1/ranks/{failed['rank']}"
        assert ask(service, path, keys.boss).json()["log_tail"]
        for seen in (ask(service, path, keys.plain).json(), *ask(service, "/v1/ranks", keys.plain).json()["data"]):
            assert seen["log_tail"] == [] and "\n" not in (seen["last_error"] or "")


def test_only_an_admins_key_drains_and_restarts(service: Service, keys: Keys) -> None:
    for what in ("drain", "restart"):
        error = error_of(ask(service, f"/v1/ranks/0/{what}", keys.plain, "POST"), 403)
        assert error["code"] == "admin_key_required" and "admin" in error["message"]
    assert ask(service, "/v1/ranks/0/restart", keys.boss, "POST").status_code == 202
    until(lambda: service.ranks()[0]["incarnation"] == 2, "it is not started anew")
    until(lambda: service.health()["status"] == "ok", "it does not come back")
