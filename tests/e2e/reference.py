"""vllm.LLM alone, as a program: greedy texts of the prompts in a JSON file, for comparison with the service.

All of it is one process: two more would each import vLLM once again.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def main(model: str, prompts_file: str, answers_file: str) -> None:
    """Reads prompts (strings, token ids or lists of messages) and writes their texts, in order."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    prompts = json.loads(Path(prompts_file).read_text())
    params = SamplingParams(temperature=0.0, max_tokens=12)
    llm = LLM(
        model=model,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=256,
        distributed_executor_backend="uni",
    )
    answers: list[str] = [""] * len(prompts)
    chats = [index for index, prompt in enumerate(prompts) if isinstance(prompt, list) and isinstance(prompt[0], dict)]
    plain = [index for index in range(len(prompts)) if index not in set(chats)]
    inputs: list[Any] = [
        prompts[index] if isinstance(prompts[index], str) else {"prompt_token_ids": prompts[index]} for index in plain
    ]
    for index, output in zip(plain, llm.generate(inputs, params, use_tqdm=False), strict=True):
        answers[index] = output.outputs[0].text
    if chats:
        for index, output in zip(chats, llm.chat([prompts[i] for i in chats], params, use_tqdm=False), strict=True):
            answers[index] = output.outputs[0].text
    Path(answers_file).write_text(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
