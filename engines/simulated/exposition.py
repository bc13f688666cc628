"""The simulated engine's own metrics."""

from engines.rank.engine import EngineLoad


def expose(rank: int, load: EngineLoad) -> bytes:
    """What the load tells, in Prometheus' text format."""
    families = (
        ("num_requests_running", "gauge", "Sequences that run", load.running),
        ("num_requests_waiting", "gauge", "Sequences that wait in the engine", load.waiting),
        ("kv_cache_usage_perc", "gauge", "KV cache in use, 0 to 1", load.kv_cache_usage),
        ("engine_steps_total", "counter", "Steps made", load.steps),
        ("prompt_tokens_total", "counter", "Prompt tokens of finished requests", load.prompt_tokens),
        ("generation_tokens_total", "counter", "Tokens generated", load.completion_tokens),
    )
    lines = []
    for name, kind, text, value in families:
        lines.append(f"# HELP simulated:{name} {text}\n# TYPE simulated:{name} {kind}\n")
        lines.append(f'simulated:{name}{{engine="{rank}"}} {float(value)}\n')
    return "".join(lines).encode()
