"""Everything that knows vLLM, and everything that depends on its version: 0.26 to 0.33.

``compat`` holds what moved or changed between versions, ``arguments`` turns a rank's spec into vLLM's arguments,
``sampling`` and ``prompts`` an item into vLLM's inputs, ``outputs`` vLLM's answers into results, ``engine`` runs them.
"""
