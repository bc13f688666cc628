"""What was asked on the command line, checked as far as no file has to be read for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from phalanx.generate.errors import UsageProblem
from phalanx.generate.parameters import Parameters
from phalanx.generate.rows import SUFFIXES, Format
from phalanx.generate.workplace import STANDARD
from phalanx.service_flags import size_flags

SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "seed", "n")
OUTPUTS = (Format.JSONL, Format.PARQUET)


class OnInterrupt(StrEnum):
    """What becomes of the batch at Ctrl-C."""

    LEAVE = "leave"  # it runs on
    CANCEL = "cancel"
    ASK = "ask"  # on a terminal; else leave


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """One run of the command. `serve_flags` are those of the service that `--local` starts."""

    input: Path
    output: Path
    input_format: Format
    output_format: Format
    parameters: Parameters
    failures: Path | None = None
    url: str = "http://127.0.0.1:8000"
    api_key: str | None = None
    serve_flags: tuple[str, ...] = ()
    on_interrupt: OnInterrupt = OnInterrupt.LEAVE
    overwrite: bool = False
    restart: bool = False
    is_failures_named: bool = False


def request_of(given: Mapping[str, Any], serve_flags: tuple[str, ...] = ()) -> JobRequest:  # Any: as typed
    """The request for what was typed. Raises UsageProblem."""
    source, output = Path(given["input"]), Path(given["output"])
    _check_together(given, serve_flags)
    input_format = input_format_of(source, given["input_format"])
    output_format = _format(output, given["output_format"], "--output-format", OUTPUTS)
    if output == STANDARD and output_format is not Format.JSONL:
        raise UsageProblem("standard output is JSONL: name a file for Parquet")
    names = ("prompt_column", "template", "messages_column", "system", "model", "local", "priority", "timeout_s")
    return JobRequest(
        input=source,
        output=output,
        input_format=input_format,
        output_format=output_format,
        parameters=Parameters(
            input_format=input_format,
            chat=given["chat"],
            prefix=given["prefix"],
            sampling_params=_sampling(given),
            **{name: given[name] for name in names},
        ),
        failures=_failures(given["failures"], output),
        is_failures_named=given["failures"] is not None,
        url=given["url"],
        api_key=given["api_key"],
        serve_flags=(*size_flags(given["dp_size"], given["tp_size"]), *serve_flags),
        on_interrupt=_on_interrupt(given["on_interrupt"], output),
        overwrite=given["overwrite"],
        restart=given["restart"],
    )


def check_one_prompt(given: Mapping[str, Any]) -> None:  # Any: as above
    """Raises UsageProblem where it is said in more than one way what the prompt is."""
    ways = [name for name in ("prompt_column", "template", "messages_column") if given[name] is not None]
    if len(ways) > 1:
        flags = " and ".join("--" + name.replace("_", "-") for name in ways)
        raise UsageProblem(f"{flags} each say what the prompt is: keep one of them")


def _check_together(given: Mapping[str, Any], serve_flags: tuple[str, ...]) -> None:
    check_one_prompt(given)
    sizes = [flag for flag in ("dp_size", "tp_size") if given[flag] is not None]
    if given["local"] is None and (serve_flags or sizes):
        what = f"--{sizes[0].replace('_', '-')}" if sizes else serve_flags[0]
        raise UsageProblem(f"{what} is for a service that --local MODEL starts: add that, or leave it out")
    if given["local"] is not None and given["model"] is not None:
        raise UsageProblem("--local names the model already: leave --model out")


def input_format_of(path: Path, named: str | None) -> Format:
    """How the rows of an input are written. Raises UsageProblem."""
    return _format(path, named, "--input-format", tuple(Format))


def _format(path: Path, named: str | None, flag: str, known: tuple[Format, ...]) -> Format:
    if named is not None:
        return Format(named)
    if path == STANDARD and flag == "--output-format":
        return Format.JSONL
    found = SUFFIXES.get(path.suffix.lower())
    if found not in known:
        choices = ", ".join(known)
        raise UsageProblem(f"the name {path} does not say its format: name it with {flag} ({choices})")
    return found


def sampling_params_of(given: Mapping[str, Any]) -> dict[str, Any]:  # Any: as typed, and JSON
    """What --sampling-params says. Raises UsageProblem."""
    if given["sampling_params"] is None:
        return {}
    try:
        return msgspec.json.decode(given["sampling_params"], type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError) as error:
        raise UsageProblem(f"--sampling-params is no JSON object ({error})") from None


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    params = sampling_params_of(given)
    params |= {name: given[name] for name in SAMPLING if given[name] is not None}
    return params | ({"stop": list(given["stop"])} if given["stop"] else {})


def _failures(named: str | None, output: Path) -> Path | None:
    """Beside the output, unless it is named; nowhere for standard output."""
    if named is not None:
        if Path(named) == STANDARD:
            raise UsageProblem("--failures needs a file's name")
        return Path(named)
    return None if output == STANDARD else output.with_name(f"{output.name}.failures.jsonl")


def _on_interrupt(named: str | None, output: Path) -> OnInterrupt:
    if output != STANDARD:
        return OnInterrupt(named or OnInterrupt.LEAVE)
    if named not in (None, OnInterrupt.CANCEL):
        raise UsageProblem(f"--on-interrupt {named} needs a file as OUT: nothing goes on with standard output")
    return OnInterrupt.CANCEL
