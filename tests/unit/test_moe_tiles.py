"""Tiles of fused MoE: which are tried, what is kept of them, how vLLM finds them, and where there can be none."""

import json
from pathlib import Path

import pytest

from engines.vllm_engine.moe_tiles import (
    TOKENS,
    Tile,
    TilesUnsuitable,
    read_name,
    search,
    suits,
    tiles,
    tune_tiles,
    write_tiles,
)
from phalanx.tune.tiles import NoTiles, TileFolder, missing_tiles

NAME = "E=20,N=512,device_name=NVIDIA_H100_80GB_HBM3.json"
OWN: Tile = {"BLOCK_SIZE_M": 1}


def test_a_name_says_how_many_experts_of_which_width() -> None:
    assert read_name(NAME) == (20, 512)
    for name in (
        "E=20,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8.json",
        "E=20,N=512,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json",
        "other.json",
    ):
        with pytest.raises(TilesUnsuitable, match="quantized"):
            read_name(name)


def test_the_set_of_tiles_is_small_and_suits_all_numbers_of_tokens() -> None:
    found = tiles()
    assert len(found) <= 64 and len({json.dumps(tile) for tile in found}) == len(found)
    assert all(sum(suits(tile, tokens) for tile in found) >= 16 for tokens in TOKENS)
    assert not any(suits(tile, 1) for tile in found if tile["BLOCK_SIZE_M"] == 128)


def test_the_fastest_is_kept_where_it_beats_vllms_own_clearly() -> None:
    best = tiles()[5]

    def time_of(tile: Tile | None, tokens: int) -> float | None:
        if tile is None:
            return 1.0
        if tile["num_stages"] == 4:
            return None  # no room on the GPU
        return 0.5 if tile == tiles()[4] and tokens == 512 else 0.98

    assert search(time_of, 1e9) == {512: tiles()[4]}
    assert best["num_stages"] == 4


def test_a_search_ends_with_its_time() -> None:
    now = [0.0]

    def time_of(tile: Tile | None, tokens: int) -> float:
        now[0] += 1 if tile else 0
        return 1.0 if tile is None else 0.5

    found = search(time_of, 3.5, lambda: now[0])
    assert len(found) == 4 and now[0] == 4


def test_a_file_has_an_entry_for_all_numbers_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tiles" / NAME
    write_tiles(path, {512: {"BLOCK_SIZE_M": 64}}, dict.fromkeys(TOKENS, OWN))
    found = json.loads(path.read_text())
    assert list(map(int, found)) == list(TOKENS)
    assert found["512"] == {"BLOCK_SIZE_M": 64} and found["1"] == OWN
    assert [file.name for file in path.parent.iterdir()] == [NAME]


def test_a_ranks_log_says_which_files_vllm_misses(tmp_path: Path) -> None:
    log = tmp_path / "rank-0.log"
    assert missing_tiles(log) == []
    said = f"Performance might be sub-optimal! Config file not found at /site/configs/{NAME}"
    log.write_text(f'WARNING {said}\n{{"event":"{said}","level":"warning"}}\nother.json\n')
    assert missing_tiles(log) == [NAME]


def test_without_a_gpu_there_are_no_tiles(tmp_path: Path, moe_model: Path) -> None:
    with pytest.raises(TilesUnsuitable, match="there is no GPU"):
        tune_tiles(str(moe_model), None, tmp_path / "E=8,N=64,device_name=GPU.json", 1.0)
    with pytest.raises(TilesUnsuitable, match="does not say how its experts are used"):
        tune_tiles(str(moe_model), None, tmp_path / "E=99,N=64,device_name=GPU.json", 1.0)


def test_why_there_are_none_is_said(tmp_path: Path) -> None:
    environ = {"PYTHONPATH": str(Path(__file__).parents[2])}
    folder = TileFolder(tmp_path / "tiles", "any/model", None, "", 1.0, environ)
    with pytest.raises(
        NoTiles, match=r"no tiles could be measured: E=2,N=4,device_name=X,dtype=fp8_w8a8.json is of quan"
    ):
        folder.fill(["E=2,N=4,device_name=X,dtype=fp8_w8a8.json"])
    assert not (tmp_path / "tiles").exists()
