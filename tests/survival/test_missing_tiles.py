"""Tiles of fused MoE as vLLM itself looks for them: what it says when there are none, and what it takes."""

import logging
from pathlib import Path

import pytest

from engines.vllm_engine.moe_tiles import TOKENS, read_name, tiles, write_tiles
from phalanx.tune.tiles import missing_tiles


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_vllm_says_what_it_misses_and_takes_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm import envs
    from vllm.model_executor.layers.fused_moe import fused_moe

    log = tmp_path / "rank-0.log"
    handler = logging.FileHandler(log)
    monkeypatch.setattr(fused_moe.logger, "handlers", [handler])
    try:
        assert fused_moe.get_moe_configs(20, 517, None) is None
    finally:
        handler.close()
    (name,) = missing_tiles(log)
    assert read_name(name) == (20, 517)
    tile = tiles()[0]
    write_tiles(tmp_path / name, {}, dict.fromkeys(TOKENS, tile))
    monkeypatch.setattr(envs, "VLLM_TUNED_CONFIG_FOLDER", str(tmp_path), raising=False)
    fused_moe.get_moe_configs.cache_clear()
    assert fused_moe.get_moe_configs(20, 517, None) == dict.fromkeys(TOKENS, tile)
