"""What was asked on the command line, checked as far as nothing has to be started for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from app.ranks.tuned import HOW_EXPERTS_LIE, SHARING, TILES
from app.settings.checks import argument_name
from app.settings.declaration import Settings, WorkSettings
from app.settings.loading import load_settings
from engines.contract.tuned import DECIDING_SEQUENCES, STEP_TOKENS
from phalanx.generate.errors import UsageProblem
from phalanx.generate.parameters import Parameters
from phalanx.generate.request import check_one_prompt, input_format_of, sampling_params_of
from phalanx.tune.lengths import Lengths, parse_lengths
from phalanx.tune.search import Number, Space
from phalanx.tune.workload import FromFile, MadeUp, Workload, digest

INPUT_TOKENS, OUTPUT_TOKENS, MAX_TOKENS = "100", "128", 1024
PROMPT_FLAGS = ("input_format", "prompt_column", "template", "messages_column", "chat", "system")
UNBOUNDED = {  # the service's: a batch fills all sequences several times, and an operator's limits are for clients
    "max_batch_items": "100M",
    "max_waiting_items": "100M",
    "max_waiting_tokens": "1000000M",
    "max_body_bytes": "64GiB",
    "max_held_bytes": "256GiB",
    "max_timeout_s": "30d",
}
GRAPH_FLAGS = ("O", "cc", "compilation_config")  # of vLLM, also with something after them


@dataclass(frozen=True, kw_only=True)
class TuneRequest:
    """One run of the command. `serve_flags` are the service's own."""

    model: str
    serve_flags: tuple[str, ...]
    settings: Settings  # of the service
    workload: Workload
    items: int | None  # of a round; None: as many as suit
    budget_s: float
    is_fresh: bool
    as_json: bool

    def fingerprint(self, environ: Mapping[str, str]) -> str:
        """The same only for the same work, done the same way: but for where it is done, and for what is searched."""
        given = (self.settings.model_fields_set & WorkSettings.model_fields.keys()) - UNBOUNDED.keys()
        ways: dict[str, Any] = {name: getattr(self.settings, name) for name in given}  # Any: settings' values
        ways |= {TILES: environ[TILES]} if TILES in environ else {}
        parts = [self.workload.fingerprint, digest(ways) if ways else "", str(self.items or "")]
        return "-".join(filter(None, parts))

    @property
    def space(self) -> Space:
        """What these settings leave open."""
        given = {*self.settings.engine_arguments(), *map(argument_name, self.settings.extra_args)}
        said = self.settings.model_fields_set
        has_sequences = any(name in DECIDING_SEQUENCES or name.startswith(GRAPH_FLAGS) for name in given)
        numbers = {
            Number.RANKS_PER_GPU: SHARING not in said,
            Number.GRAPH_TOKENS: not has_sequences,
            Number.SEQUENCES: not has_sequences,
            Number.STEP_TOKENS: STEP_TOKENS not in given,
        }
        return Space(
            groups=HOW_EXPERTS_LIE not in said,
            numbers=tuple(number for number, is_open in numbers.items() if is_open),
        )


def settings_of(ctx: click.Context, model: str, flags: tuple[str, ...], environ: Mapping[str, str]) -> Settings:
    """Those of the service that these flags start. Raises SettingsError and click's UsageError."""
    from phalanx.cli import serve

    given = serve.make_context("serve", list(flags), parent=ctx.parent).params
    if given.pop("model_argument") is not None or given["model"] not in (None, model):
        raise UsageProblem(f"MODEL is {model}, and the flags of the service name another one: name one model")
    return load_settings(given | {"model": model}, environ)


def workload_of(given: Mapping[str, Any]) -> Workload:  # Any: as typed
    """The work that was described. Raises UsageProblem."""
    more = sampling_params_of(given)
    outputs = _lengths(given, "output_tokens")
    if given["prompts"] is None:
        _refuse(given, (*PROMPT_FLAGS, "max_tokens"), "is for --prompts FILE: add that, or leave it out")
        inputs = _lengths(given, "input_tokens") or parse_lengths("", INPUT_TOKENS)
        return MadeUp(inputs, outputs or parse_lengths("", OUTPUT_TOKENS), more)
    _refuse(given, ("input_tokens",), "does not go with --prompts FILE, whose prompts are as long as they are")
    if outputs is not None:
        _refuse(given, ("max_tokens",), "and --output-tokens both say how long answers are: keep one of them")
    check_one_prompt(given)
    path = Path(given["prompts"])
    parameters = Parameters(
        **{name: given[name] for name in PROMPT_FLAGS if name != "input_format"},
        input_format=input_format_of(path, given["input_format"]),
    )
    return FromFile(path, parameters, outputs, given["max_tokens"] or MAX_TOKENS, more)


def _lengths(given: Mapping[str, Any], name: str) -> Lengths | None:
    return None if given[name] is None else parse_lengths(_flag(name), given[name])


def _refuse(given: Mapping[str, Any], names: tuple[str, ...], why: str) -> None:
    for name in names:
        if given[name] not in (None, False):
            raise UsageProblem(f"{_flag(name)} {why}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
