"""A small evaluation for inspect: the capitals that the built-in model knows, and some that it gets wrong."""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import FieldSpec, json_dataset
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, prompt_template

DATA = Path(__file__).parents[1] / "tasks" / "capitals.jsonl"


@task
def capitals() -> Task:
    """As tests/clients/tasks/capitals_chat.yaml asks it."""
    return Task(
        dataset=json_dataset(str(DATA), FieldSpec(input="country", target="capital")),
        solver=[prompt_template("{prompt}: capital?"), generate(max_tokens=24, temperature=0)],
        scorer=includes(),
    )
