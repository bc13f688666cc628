"""One rank of side (a), started by bench/direct_engines.py. Its argument: `vllm.LLM`'s own arguments, as JSON.

It is told `load FILE` (a workload) and `go` on stdin, and answers `loaded` and `done TOKENS`.
"""

import json
import os
import sys
from typing import Any, TextIO


def main(arguments: dict[str, Any]) -> None:  # Any: vLLM's arguments
    """Answers until stdin ends."""
    answers = _own_stdout()
    from vllm import LLM, SamplingParams

    llm = LLM(**arguments)
    print("ready", file=answers, flush=True)
    prompts: list[Any] = []  # Any: vLLM's prompt types
    params: list[Any] = []
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        if command == "load":
            with open(path) as file:  # noqa: PTH123  nothing of ours is imported beside vLLM
                work = json.load(file)
            prompts = [
                prompt if isinstance(prompt, str) else {"prompt_token_ids": prompt} for prompt in work["prompts"]
            ]
            params = [SamplingParams(max_tokens=n, **work["sampling"]) for n in work["max_tokens"]]
            print("loaded", file=answers, flush=True)
        else:
            outputs = llm.generate(prompts, params, use_tqdm=False)
            tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
            print(f"done {tokens}", file=answers, flush=True)


def _own_stdout() -> TextIO:
    """Stdout for our answers alone: whatever else is printed, by vLLM's processes too, goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
