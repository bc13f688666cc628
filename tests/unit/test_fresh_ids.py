"""Ids that nobody else has."""

import re
import threading

from app.fresh_ids import AT_ONCE, fresh_id


def test_no_id_comes_twice_whoever_asks() -> None:
    found: list[str] = []

    def draw() -> None:
        found.extend(fresh_id() for _ in range(10 * AT_ONCE))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 40 * AT_ONCE
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in found)
