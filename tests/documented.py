"""What docs/openai.md shows, for tests that run it."""

import re
import shlex
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "openai.md"
URL, KEY, MODEL = "http://127.0.0.1:8000", "none", "MODEL"  # as the page has them


def examples(language: str, below: str = "# OpenAI's API") -> list[str]:
    """The examples in this language, from a heading to the next of its kind."""
    text = PAGE.read_text()
    depth = below.partition(" ")[0]
    part = text[text.index(f"{below}\n") + len(below) :]
    part = re.split(rf"^{depth} ", part, maxsplit=1, flags=re.MULTILINE)[0]
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", part, re.DOTALL)
    assert found, f"{PAGE.name} has no {language} below {below!r}"
    return found


def example(language: str, below: str) -> str:
    """The only one."""
    (found,) = examples(language, below)
    return found


def serve_flags(below: str, number: int = 0) -> list[str]:
    """What stands behind the model on a line of an example that starts the service."""
    line = examples("sh", below)[0].splitlines()[number]
    command, _, flags = line.partition(" -- ")
    assert command.startswith("phalanx serve ") and len(command.split()) == 3, line
    return shlex.split(flags)


def filled(text: str, url: str, key: str, model: str) -> str:
    """An example with a server's own address, key and model."""
    for written, own in ((URL, url), (f'"{KEY}"', f'"{key}"'), (f"api_key: {KEY}", f"api_key: {key}"), (MODEL, model)):
        text = text.replace(written, own)
    return text
