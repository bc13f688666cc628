"""Processes that put results and say of each that it is stored; `test_journal_faults.py` kills them at some moment.

python -m tests.journal.killed FOLDER-OR-URL ORDINAL, and a line on stdin for each process. They are forked from this
one, which has imported everything.
"""

import asyncio
import os
import sys
from pathlib import Path

from app.journal.place import FolderPlace, Place, ServerPlace
from tests.journal.stored import opened, results

AT_ONCE = 7
GONE = "gone"


def place_of(argument: str) -> Place:
    """As it was named on the command line."""
    return ServerPlace(argument) if "://" in argument else FolderPlace(Path(argument))


def say(what: object) -> None:
    """A line on stdout, in one piece: the end may come at any moment."""
    os.write(1, f"{what}\n".encode())


def main(place: Place, ordinal: int) -> None:
    """A process at a time."""
    for _ in sys.stdin:
        process = os.fork()
        if process == 0:
            asyncio.run(put_all(place, ordinal))
            os._exit(0)
        os.waitpid(process, 0)
        say(GONE)


async def put_all(place: Place, ordinal: int) -> None:
    """Until there is nothing left, or the end comes."""
    async with opened(place) as journal:
        say(os.getpid())
        turns = asyncio.Semaphore(AT_ONCE)

        async def put(index: int) -> None:
            async with turns:
                await journal.put_results(ordinal, results([index], prompt_tokens=1))
                say(index)

        while window := await journal.unfinished_items(ordinal, limit=200):
            await asyncio.gather(*(put(item.index) for item in window))


if __name__ == "__main__":
    import app.journal.journal
    import app.journal.sql.opening  # noqa: F401  imported before the forks

    main(place_of(sys.argv[1]), int(sys.argv[2]))
