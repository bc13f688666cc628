"""One data-parallel rank: the process that holds an engine, and the guardian around it.

Nothing here imports ``app``. Only :mod:`engines.vllm_engine` imports vllm, and only what it imports imports torch.
"""
