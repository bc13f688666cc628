"""A batch's input file, read line by line as it comes out of the journal: no more of it is held than a line and a few
pieces, however large it is."""

from collections.abc import AsyncIterator

import msgspec

from app.batches.lines import BYTE_ORDER_MARK, LineCutter
from app.batches.turnstile import Turnstile
from app.openai_batches.input_line import SPACE, Expected, Problem, ProblemCode, Task, read_line

LINES_AT_ONCE = 256  # between two turns of the event loop
MAX_PROBLEMS = 100  # that are listed of one file; nobody reads more, and the file is read no further


class Limits(msgspec.Struct, frozen=True):
    """Of one input file."""

    line_bytes: int
    tasks: int


class Checked(msgspec.Struct, frozen=True):
    """What some lines hold, in their order."""

    tasks: list[Task]
    problems: list[Problem]


class InputFile:
    """Reads one file once."""

    def __init__(self, expected: Expected, limits: Limits, turnstile: Turnstile) -> None:
        self._expected = expected
        self._limits = limits
        self._turnstile = turnstile
        self._cutter = LineCutter(limits.line_bytes)
        self._line = 0  # the number of the one that is looked at
        self._tasks = 0  # lines that hold something
        self._problems = 0

    async def read(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Checked]:
        """What its lines hold, some hundreds at a time. That no custom_id comes twice is for whoever keeps them.

        It ends early at a problem of the whole file, and at MAX_PROBLEMS. Raises what `pieces` does.
        """
        async for piece in pieces:
            async for checked in self._check(self._cutter.take(piece)):
                yield checked
                if self._is_over:
                    return
        async for checked in self._check(self._cutter.end()):
            yield checked
        if self._tasks == 0:
            yield Checked([], [_empty_file()])

    @property
    def _is_over(self) -> bool:
        return self._tasks > self._limits.tasks or self._problems >= MAX_PROBLEMS

    async def _check(self, lines: list[bytes | None]) -> AsyncIterator[Checked]:
        for start in range(0, len(lines), LINES_AT_ONCE):
            await self._turnstile.enter()
            yield self._check_some(lines[start : start + LINES_AT_ONCE])
            if self._is_over:
                return

    def _check_some(self, lines: list[bytes | None]) -> Checked:
        checked = Checked([], [])
        for line in lines:
            self._line += 1
            if line is not None and self._line == 1:
                line = line.removeprefix(BYTE_ORDER_MARK)  # noqa: PLW2901  only a file's first bytes are one
            if line is not None and not line.strip(SPACE):
                continue
            self._tasks += 1
            found = self._look_at(line)
            if isinstance(found, Task):
                checked.tasks.append(found)
            else:
                checked.problems.append(found)
                self._problems += 1
            if self._is_over:
                break
        return checked

    def _look_at(self, line: bytes | None) -> Task | Problem:
        limits = self._limits
        if self._tasks > limits.tasks:
            message = (
                f"the file has more than {limits.tasks} lines, the most that are accepted in a batch "
                "(--max-batch-lines): split it"
            )
            return Problem(code=ProblemCode.TOO_MANY_TASKS, line=None, message=message)
        if line is None:
            message = f"line {self._line}: it has more than {limits.line_bytes} bytes: shorten the prompt"
            return Problem(code=ProblemCode.LINE_TOO_LONG, line=self._line, message=message)
        return read_line(line, self._line, self._expected)


def _empty_file() -> Problem:
    message = "the file has no lines: it takes a JSON object on each, with custom_id, method, url and body"
    return Problem(code=ProblemCode.EMPTY_FILE, line=None, message=message)
