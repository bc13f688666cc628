"""A user without a home that takes files, as containers start arbitrary ones, is served all the same."""

import os

from tests.service import serving


def test_logs_of_a_user_without_a_home_go_to_a_private_folder() -> None:
    with serving(dp_size=1, variables={"HOME": "/proc", "XDG_STATE_HOME": ""}) as service:
        (said,) = service.facts("home_replaced")
        assert said["folder"] == str(service.folder / f"phalanx.{os.getuid()}")
        log = service.ranks()[0]["log_file"]
        assert log == f"{said['folder']}/.local/state/phalanx/logs/0/rank-0.log"
        assert "rank_serving" in service.client.get("/v1/ranks/0").text
        assert service.batch(["a"])["request_counts"]["ok"] == 1
