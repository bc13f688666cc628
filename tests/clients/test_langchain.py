"""LangChain as docs/openai.md shows it: a chat, a stream, a tool call, and an answer with a schema."""

import ast
from collections.abc import Callable

from tests.clients.environments import Client
from tests.clients.server import Server
from tests.documented import example

TIMEOUT_S = 120
CITIES = ("Paris", "Rome")


def test_the_documented_lines_run(client: Callable[[str], Client], server: Server) -> None:
    program = server.filled(example("python", "### LangChain"))
    printed = client("langchain").run("python", "-c", program, timeout_s=TIMEOUT_S)
    *texts, calls, answer = printed.strip().splitlines()
    assert "".join(texts).strip()
    (call,) = ast.literal_eval(calls)
    assert (call["name"], call["type"]) == ("Weather", "tool_call") and call["args"]["city"] in CITIES
    assert answer in [f"city={city!r}" for city in CITIES]
