"""Items for hypothesis, with numbers at the edges of their types: as JSON, which has numbers that no float can hold."""

from collections.abc import Mapping

from hypothesis import strategies as st

from engines.contract.sampling import RepetitionDetection, SamplingFields


def _object(entries: Mapping[str, str]) -> str:
    return "{" + ",".join(f'"{name}":{value}' for name, value in entries.items()) + "}"


def _list(values: list[str]) -> str:
    return "[" + ",".join(values) + "]"


INTEGERS = [
    edge + step for edge in (0, 128, 1024, 2**16, 2**31, -(2**31), 2**63, -(2**63), 2**64) for step in (-1, 0, 1)
]
FLOATS = [
    "-0.0",
    "1.0",
    "0.5",
    "5e-324",
    "1e-400",
    "1e-45",
    "1e-9",
    "1e9",
    "3.5e38",
    "1e308",
    "-1e308",
    "1e400",
    "-1e400",
]
NUMBERS = st.sampled_from([*map(str, INTEGERS), *FLOATS])
LISTS = st.lists(NUMBERS, max_size=3).map(_list)
OBJECTS = st.dictionaries(st.sampled_from(INTEGERS).map(str), NUMBERS, max_size=3).map(_object)
DETECTIONS = st.dictionaries(st.sampled_from(RepetitionDetection.__struct_fields__), NUMBERS | st.just("null"))
VALUES = NUMBERS | LISTS | OBJECTS | DETECTIONS.map(_object) | st.sampled_from(["null", "true", '"x"'])
PARAMS = st.dictionaries(st.sampled_from(SamplingFields.__struct_fields__), VALUES, max_size=3).map(_object)
ITEMS = st.fixed_dictionaries(
    {
        "prompt": LISTS | st.just('"Hello"'),
        "truncate_prompt_tokens": NUMBERS | st.just("null"),
        "sampling_params": PARAMS,
    }
).map(_object)
