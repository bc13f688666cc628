"""How an exception is shown in a log: where it was raised and what kind it is.

An exception's message may quote what the code was working on, a prompt or a stop string. It is withheld, unless the
kind of exception speaks of the system and of names in the code alone, or prompts were asked for (--log-prompts).
"""

import traceback

WITHHELD = "(message withheld: --log-prompts shows it)"
# Their messages name files, modules, attributes and limits, never a value that was worked on.
SPEAK_OF_THE_SYSTEM = (OSError, ImportError, AttributeError, NameError, MemoryError, RecursionError)
LONGEST_CHAIN = 8


def report(error: BaseException, *, with_message: bool, longest_chain: int = LONGEST_CHAIN) -> str:
    """The traceback of an exception, after those of the exceptions that led to it."""
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    parts = []
    if earlier is not None and longest_chain > 1:
        parts = [report(earlier, with_message=with_message, longest_chain=longest_chain - 1), "This led to:"]
    where = "".join(traceback.format_tb(error.__traceback__))
    parts.append(f"Traceback (most recent call last):\n{where}{kind(error, with_message=with_message)}")
    if isinstance(error, BaseExceptionGroup):
        parts += [report(part, with_message=with_message, longest_chain=1) for part in error.exceptions]
    return "\n".join(parts)


def summary(error: BaseException, *, with_message: bool) -> str:
    """An exception in one line: its kind, its message where that is allowed, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name} ({frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno})" if frames else ""
    return f"{kind(error, with_message=with_message)}{where}".replace("\n", " ")


def kind(error: BaseException, *, with_message: bool) -> str:
    """An exception's class, and its message where that is allowed."""
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    text = str(error)
    if not text:
        return name
    return f"{name}: {text}" if with_message or isinstance(error, SPEAK_OF_THE_SYSTEM) else f"{name} {WITHHELD}"
