"""vLLM's own application, as a rank has it. In a process of its own: it sets up logging for all of it."""

import json
import subprocess
import sys

from engines.contract.exchanges import Exchange

ASK = """
import json
from engines.vllm_engine import server_compat
from engines.vllm_engine.exchanges.shortcut import endpoints
arguments = server_compat.server_defaults("a/model", "a/model")
routes = server_compat.bare_application(arguments, ("generate",), None)
print(json.dumps({"routes": [route.path for route in routes.routes], "endpoints": list(endpoints(routes))}))
"""


def test_there_is_an_endpoint_for_every_exchange_of_a_generating_model() -> None:
    asked = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, timeout=120, check=False)
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout.splitlines()[-1])
    offered = set(Exchange) & set(found["routes"])
    assert {Exchange.CHAT_COMPLETIONS, Exchange.COMPLETIONS} <= offered <= set(found["endpoints"])
