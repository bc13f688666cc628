"""What the rules of the layout are good for: a gateway that is up at once, and a simulated rank without an engine."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_IMPORT_RATIO = 3.0  # of the gateway to its libraries; it is twice as much
HEAVY = ("vllm", "torch", "transformers", "tokenizers", "numpy", "huggingface_hub", "opentelemetry")


def test_the_gateway_is_up_at_once() -> None:
    """Importing it takes little, and brings nothing of the engine's."""
    code = (
        "import sys, time, fastapi, pydantic_settings, sqlalchemy, uvicorn, zmq; libraries_s = time.process_time()\n"
        "import app.http.server\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "print(time.process_time() / libraries_s, *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    ratio, *heavy = done.stdout.split()
    assert not heavy
    assert float(ratio) < MAX_IMPORT_RATIO


def test_a_simulated_rank_needs_no_engine() -> None:
    modules = "engines.rank.serve, engines.host.guardian, engines.simulated.engine"
    code = f"import sys, {modules}; sys.exit(any(name in sys.modules for name in {HEAVY!r}))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
