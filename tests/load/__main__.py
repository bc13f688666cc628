"""`python -m tests.load --url http://host:8000`: puts a running service under load, and shows what its clients saw.

The API key is PHALANX_API_KEY. The exit code is 1 if no request was answered, or anything failed; requests that were
told to come back later (429, 503) are counted, and no failure.
"""

import argparse
import asyncio
import os
import sys
from typing import TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from app.settings.field_types import Positive, Seconds
from phalanx.console import make_console
from tests.load.clients import LoadPlan, put_under_load
from tests.load.table import print_tally

T = TypeVar("T")


def main() -> int:
    """The exit code."""
    plan = _plan()
    console = make_console()
    tally = asyncio.run(put_under_load(plan))
    console.print(
        f"{plan.url}: {plan.clients} clients, {plan.prompts_per_request} prompts a request, at most {plan.max_tokens} "
        f"tokens each{', streamed' if plan.is_streamed else ''}, {tally.seconds:.1f} s",
        highlight=False,
        markup=False,
    )
    print_tally(console, tally)
    return int(bool(tally.errors) or not tally.requests)


def _plan() -> LoadPlan:
    parser = argparse.ArgumentParser(
        prog="python -m tests.load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", required=True, type=_url, help="of the service, such as http://127.0.0.1:8000")
    parser.add_argument("--clients", type=_positive, default=16, metavar="N", help="at once (%(default)s)")
    parser.add_argument("--duration", type=_seconds, default=20.0, metavar="TIME", help="such as 20s (%(default)s)")
    parser.add_argument("--prompts-per-request", type=_positive, default=10, metavar="N", help="(%(default)s)")
    parser.add_argument("--max-tokens", type=_positive, default=16, metavar="N", help="of each prompt (%(default)s)")
    parser.add_argument(
        "--timeout", type=_seconds, default=300.0, metavar="TIME", help="for the answer to one request (%(default)s)"
    )
    parser.add_argument("--stream", action="store_true", help="results as they come, instead of whole answers")
    given = parser.parse_args()
    return LoadPlan(
        given.url,
        os.environ.get("PHALANX_API_KEY"),
        given.clients,
        given.duration,
        given.prompts_per_request,
        given.max_tokens,
        given.timeout,
        given.stream,
    )


def _url(text: str) -> str:
    url = text if "://" in text else f"http://{text}"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise argparse.ArgumentTypeError(f"{text!r} must be a URL such as http://127.0.0.1:8000")
    return url


def _positive(text: str) -> int:
    return _checked(TypeAdapter(Positive), text)


def _seconds(text: str) -> float:
    return _checked(TypeAdapter(Seconds), text)


def _checked(kind: TypeAdapter[T], text: str) -> T:
    try:
        return kind.validate_python(text)
    except ValidationError as error:
        raise argparse.ArgumentTypeError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


if __name__ == "__main__":
    sys.exit(main())
