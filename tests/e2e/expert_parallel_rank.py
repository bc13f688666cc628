"""One real vLLM engine for test_cpu_expert_parallel.py: a line of JSON prompts in, a line of JSON texts out.

Arguments: the model, this rank, how many ranks, vLLM's RPC port (unused when there is one rank).
"""

import asyncio
import json
import sys


async def main(model: str, rank: int, ranks: int, rpc_port: int) -> None:
    from vllm import SamplingParams
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    together = {
        "data_parallel_size": ranks,
        "data_parallel_rank": rank,
        "data_parallel_external_lb": True,
        "data_parallel_address": "127.0.0.1",
        "data_parallel_rpc_port": rpc_port,
        "enable_expert_parallel": True,
    }
    arguments = AsyncEngineArgs(
        model=model,
        dtype="float32",
        max_model_len=512,
        max_num_seqs=16,
        **(together if ranks > 1 else {}),
    )
    engine = AsyncLLM.from_engine_args(arguments)

    async def generate(number: int, prompt: str) -> str:
        params = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
        text = ""
        async for output in engine.generate(prompt, params, f"{number}"):
            text = output.outputs[0].text
        return text

    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            prompts = json.loads(line)
            texts = await asyncio.gather(*(generate(number, prompt) for number, prompt in enumerate(prompts)))
            sys.stdout.write(f"TEXTS {json.dumps(texts)}\n")
            sys.stdout.flush()
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *(int(argument) for argument in sys.argv[2:])))
