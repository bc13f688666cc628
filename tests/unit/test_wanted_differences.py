"""What differs from `vllm serve` on purpose, as the table in docs/openai.md has it and as tests/clients finds it."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| (?P<kind>[a-z ]+) \| ", re.MULTILINE)


def test_each_kind_has_its_row_and_its_reason() -> None:
    kinds = json.loads((ROOT / "tests/clients/corpus/wanted.json").read_text())
    section = (ROOT / "docs/openai.md").read_text().partition("### Answer by answer")[2].partition("\n## ")[0]
    assert ROW.findall(section) == [kind["kind"] for kind in kinds]
    assert all(kind["why"] for kind in kinds)
