"""Plain sentences and chats for the trained model, drawn without end from templates that were written for it.

A template's slots are filled from tables: all slots of one table get cells of the same row, so that a capital belongs
to its country within one text. What is drawn depends on the random numbers alone.
"""

import math
import re
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random

FOLDER = Path(__file__).with_name("sentences")
FILES = ("words.txt", "texts.txt", "chats.txt")
CARELESS = 0.25  # the share of users who write in small letters and end without a full stop
SHARES = {"text": 0.45, "chat": 0.45, "plain chat": 0.1}  # plain: question and answer, without the form of a chat
UNFAMILIAR = ("unfamiliar", "unfamiliar_too")  # slots for made-up words: what nobody knows has an answer, too

_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa])\(n\) (?=(\w))")

Message = dict[str, str]  # a role and its content, as chat templates take it


@dataclass(frozen=True)
class Chat:
    """What was said, and the assistant's answer to it."""

    messages: list[Message]
    answer: str


@dataclass(frozen=True)
class _Turn:
    role: str
    ways: tuple[str, ...]  # to say the same


class Corpus:
    """Draws texts and chats. Templates with larger tables come up more often: there is more to learn in them."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._tables = [_Table.parsed(block) for block in _blocks("words.txt")]
        self._table_of = {column: table for table in self._tables for column in table.columns}

    def sample(self) -> str | Chat:
        """A text or a chat, as often the one as the other."""
        (kind,) = self._random.choices(list(SHARES), list(SHARES.values()))
        if kind == "text":
            return self.text()
        chat = self.chat()
        if kind == "chat" or len(chat.messages) > 1:
            return chat
        return f"{chat.messages[0]['content']} {chat.answer}"

    def text(self) -> str:
        """A text of one to five sentences."""
        (template,) = self._random.choices(self._texts, self._text_weights)
        return self._filled(template, {})

    def chat(self) -> Chat:
        """A chat of one or two turns, with a system message at times."""
        (turns,) = self._random.choices(self._chats, self._chat_weights)
        rows: dict[str, str] = {}
        said = [{"role": turn.role, "content": self._said(turn, rows)} for turn in turns]
        return Chat(said[:-1], said[-1]["content"])

    @cached_property
    def _texts(self) -> list[str]:
        return [line for block in _blocks("texts.txt") for line in block]

    @cached_property
    def _chats(self) -> list[list[_Turn]]:
        return [[_turn(line) for line in block] for block in _blocks("chats.txt")]

    @cached_property
    def _text_weights(self) -> list[float]:
        return [self._weight(text) for text in self._texts]

    @cached_property
    def _chat_weights(self) -> list[float]:
        return [self._weight(" ".join(way for turn in chat for way in turn.ways)) for chat in self._chats]

    def _weight(self, template: str) -> float:
        tables = (self._table_of.get(slot.lower()) for slot in _SLOT.findall(template))
        return math.sqrt(max((len(table.rows) for table in tables if table), default=1))

    def _said(self, turn: _Turn, cells: dict[str, str]) -> str:
        said = self._filled(self._random.choice(turn.ways), cells)
        if turn.role == "user" and self._random.random() < CARELESS:
            return said.lower().rstrip(".?!")
        return said

    def _filled(self, template: str, cells: dict[str, str]) -> str:
        """The template with cells for slots. `cells` remembers those chosen so far, by column."""

        def cell(match: re.Match[str]) -> str:
            column = match[1].lower()
            if column in UNFAMILIAR:
                cells[column] = self._made_up_word()
            elif column not in cells:
                table = self._table_of[column]
                cells.update(zip(table.columns, self._random.choice(table.rows), strict=True))
            filled = self._filled(cells[column], cells)
            return filled[0].upper() + filled[1:] if match[1][0].isupper() else filled

        return _ARTICLE.sub(_article, _SLOT.sub(cell, template))

    def _made_up_word(self) -> str:
        letters = self._random.choices("abcdefghiklmnoprstuvwyz", k=self._random.randint(3, 9))
        return "".join(letters)


@dataclass(frozen=True)
class _Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def parsed(cls, lines: list[str]) -> "_Table":
        rows = [tuple(row.split("; ")) for line in lines[1:] for row in line.split(" | ")]
        return cls(tuple(lines[0].strip("[]").split()), tuple(rows))


def checksum() -> int:
    """Of the files: a model that was trained on others is not of this corpus."""
    return zlib.crc32(b"".join((FOLDER / name).read_bytes() for name in FILES))


def _blocks(name: str) -> list[list[str]]:
    """The file's blocks of lines, which empty lines part; comments are left out."""
    blocks = (FOLDER / name).read_text(encoding="utf-8").split("\n\n")
    lines = ([line for line in block.splitlines() if line and not line.startswith("#")] for block in blocks)
    return [block for block in lines if block]


def _turn(line: str) -> _Turn:
    role, _, ways = line.partition(": ")
    return _Turn(role, tuple(ways.split(" | ")))


def _article(match: re.Match[str]) -> str:
    return f"{match[1]}n " if match[2] in "aeiou" else f"{match[1]} "
