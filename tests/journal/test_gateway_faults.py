"""What a gateway does with batches in the background while its journal cannot write: nothing is answered that is not
stored, and everything goes on afterwards."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from app.journal.opening import upgrade
from app.journal.place import FolderPlace, Place, ServerPlace
from tests.journal.gateways import Gateways, Reader
from tests.postgres import Cluster
from tests.service import BATCH, Json, Service, until

pytestmark = pytest.mark.usefixtures("kills")
SIZE = 5000
SOME = 300  # results, so that the batch is well under way
BLOCK_BYTES = 64 * 1024


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Place], Gateways]]:
    made: list[Gateways] = []

    def open_(place: Place) -> Gateways:
        made.append(Gateways(place, tmp_path / "prompts"))
        return made[-1]

    yield open_
    for gateways in made:
        gateways.discard()


def test_a_batch_goes_on_when_the_server_is_there_again(cluster: Cluster, opened: Callable[[Place], Gateways]) -> None:
    cluster.create("stopped")
    place = ServerPlace(cluster.url("stopped"))
    upgrade(place)
    gateways = opened(place)
    service = gateways.start().wait_ready()
    with Following(service, Reader("batch", SIZE)) as following:
        following.until_heard(SOME)
        cluster.stop("immediate")
        try:
            check_unavailable(service, "the server")
            following.wait()  # its stream has ended: nothing can be read
            assert service.client.get(f"{BATCH}/{following.reader.id}").status_code == 503
        finally:
            cluster.start()
        check_available_again(service)
    check_end(gateways, service, following.reader)


def test_a_batch_goes_on_when_there_is_room_on_the_disk_again(
    small_disk: Path, opened: Callable[[Place], Gateways]
) -> None:
    gateways = opened(FolderPlace(small_disk))
    service = gateways.start().wait_ready()
    ballast = small_disk / "ballast"
    with Following(service, Reader("batch", SIZE)) as following:
        following.until_heard(SOME)
        fill_up(ballast)
        check_unavailable(service, "the disk is full")
        shown = service.client.get(f"{BATCH}/{following.reader.id}").json()
        assert shown["status"] == "in_progress", "what is stored can be read"
        assert following.reader.prompts_heard <= gateways.stored().keys()
        ballast.unlink()
        check_available_again(service)
    check_end(gateways, service, following.reader)


def fill_up(file: Path) -> None:
    with suppress(OSError), file.open("wb", buffering=0) as ballast:
        while True:
            ballast.write(b"x" * BLOCK_BYTES)


class Following:
    """A reader in a thread of its own, that comes back when its stream ends."""

    def __init__(self, service: Service, reader: Reader) -> None:
        self.reader = reader
        self._service = service
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._errors: list[BaseException] = []

    def until_heard(self, results: int) -> None:
        """And the batch goes on."""
        until(lambda: len(self.reader.heard) >= results or self._errors, "no results come")
        assert len(self.reader.heard) < SIZE, "it is over already"

    def wait(self) -> None:
        """Until its stream has ended, or the batch."""
        self._thread.join()
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> "Following":
        self._thread.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.wait()

    def _run(self) -> None:
        try:
            with suppress(httpx.HTTPError):
                self.reader.run(self._service)
        except BaseException as error:  # noqa: BLE001  handed to the test
            self._errors.append(error)


def check_unavailable(service: Service, reason: str) -> None:
    """New batches are refused with the reason, /health tells it, and attached ones go on."""
    body = {"prompts": ["x" * 1000] * 100, "background": True}

    def refused() -> Json | None:
        answer = service.client.post(BATCH, json=body, headers={"Idempotency-Key": "refused"})
        if answer.status_code == 202:  # there was room yet
            body["prompts"] *= 2
            return None
        assert answer.status_code == 503 and answer.headers["Retry-After"], answer.text
        return answer.json()["error"]

    error = until(refused, "batches are taken though they cannot be stored", 30)
    assert error["code"] == "journal_unavailable" and reason in error["message"], error
    health = service.health()
    assert health["journal"]["status"] == "unavailable" and reason in health["journal"]["reason"]
    assert service.batch(["a", "b"])["request_counts"]["ok"] == 2


def check_available_again(service: Service) -> None:
    until(lambda: service.health()["journal"]["status"] == "available", "the journal does not come back", 60)


def check_end(gateways: Gateways, service: Service, reader: Reader) -> None:
    """One result an item, each item ran once, and a batch can be stored again."""
    reader.run(service)
    assert set(reader.prompts) <= gateways.stored().keys()
    ran = gateways.ran()
    assert [ran[prompt] for prompt in reader.prompts] == [1] * SIZE
    Reader("another", 10).run(service)
    until(service.is_idle, "something still runs")
