"""The environment variables of a rank: its host's own, and what makes this rank this one."""

from collections.abc import Mapping
from pathlib import Path

from engines.contract.spec import RANK_FOLDER_VARIABLE, RankVariables

PLUGINS = "VLLM_PLUGINS"


def environment(base: Mapping[str, str], variables: RankVariables, directory: Path) -> dict[str, str]:
    """All of them. An operator's choice of vLLM's plugins must not leave out those that the rank needs."""
    whole = dict(base) | variables.values
    whole["PYTHONUNBUFFERED"] = "1"
    whole[RANK_FOLDER_VARIABLE] = str(directory)  # vLLM's sockets go where the guardian removes them
    if PLUGINS in whole:
        whole[PLUGINS] = ",".join(filter(None, [whole[PLUGINS], *variables.plugins]))
    return whole
