"""Real vLLM under fire; minutes each. `make survival` runs it."""
