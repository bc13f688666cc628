"""Whether a text is what a structure asks for, as its reader will judge it: not by the library that made it.

JSON is validated by jsonschema-rs, with Rust's linear regexes; a regex by llguidance's automaton over bytes, which does
not go back either. What is said of a text names the part of the structure, never the text.
"""

import json
import math
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any, NoReturn

import jsonschema_rs

TextCheck = Callable[[str], str | None]
"""What is wrong with a text, or None."""


LONG_NUMBER = 1000  # digits: Python reads no more than 4,300 as an integer


class Uncheckable(ValueError):
    """A structure that no text can be judged by, with the reason."""


def text_check(structure: dict[str, Any]) -> TextCheck | None:  # Any: StructuredOutputs' values
    """The check for what is produced under this structure; None for grammars and tags. Raises Uncheckable."""
    if "json" in structure:
        return json_check(structure["json"])
    if "json_object" in structure:
        return json_check({"type": "object"})
    if "regex" in structure:
        return regex_check(structure["regex"])
    if "choice" in structure:
        choices = frozenset(structure["choice"])
        return lambda text: None if text in choices else "is none of the choices"
    return None


def json_check(given: str | dict[str, Any]) -> TextCheck:  # Any: a JSON schema
    """Validates JSON against a schema, formats included. Nothing is fetched."""
    schema = json.loads(given) if isinstance(given, str) else given
    try:
        validator = jsonschema_rs.validator_for(
            schema, validate_formats=True, offline=True, pattern_options=jsonschema_rs.RegexOptions()
        )
    except jsonschema_rs.ValidationError as error:
        place = "/".join(map(str, error.instance_path))
        raise Uncheckable(f"{error.message} (at {place or 'the top'})") from error

    def check(text: str) -> str | None:
        try:
            value = json.loads(text, parse_constant=_no_constant, parse_float=_number, parse_int=_whole_number)
        except json.JSONDecodeError as error:
            return f"is no JSON, from character {error.pos} on"
        except RecursionError:
            return "is nested too deeply to be read"
        try:
            validator.validate(value)
        except jsonschema_rs.ValidationError as error:
            return f"does not satisfy {'/'.join(map(str, error.schema_path)) or 'the schema'}"
        except ValueError:  # half a surrogate pair
            return "has a character that cannot be encoded"
        return None

    return check


def _number(text: str) -> float | Decimal:
    value = float(text)
    return Decimal(text) if math.isinf(value) else value  # JSON knows no largest number


def _whole_number(text: str) -> int | Decimal:
    return int(text) if len(text) < LONG_NUMBER else Decimal(text)


def _no_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", "", 0)


def regex_check(regex: str) -> TextCheck:
    """Matches whole texts."""
    import llguidance

    tokenizer = _byte_tokenizer()
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_regex(regex), log_level=0)
    if matcher.is_error():
        raise Uncheckable(matcher.get_error().splitlines()[0])

    def check(text: str) -> str | None:
        tokens = [*text.encode("utf-8", "surrogatepass"), tokenizer.eos_token]
        return None if matcher.validate_tokens(tokens) == len(tokens) else "does not match the regex"

    return check


@cache
def _byte_tokenizer() -> Any:  # Any: llguidance's LLTokenizer
    import llguidance

    return llguidance.LLTokenizer("byte")
