"""Variables that Kubernetes sets in every container, for every Service of its namespace.

A Service called `vllm` gives VLLM_SERVICE_HOST, VLLM_SERVICE_PORT, VLLM_SERVICE_PORT_HTTP, VLLM_PORT=tcp://10.0.0.1:80
and VLLM_PORT_80_TCP, _PROTO, _PORT, _ADDR. Some have the name of what a program takes for a setting of its own. They
are told from settings by their form: of a name such as these, and with a value that Kubernetes would give it.
"""

import re
from collections.abc import Mapping

from app.settings.section import PREFIX

# How the names begin that ranks read: vLLM's, and those of torch (MASTER_PORT), its collectives, Ray and connectors.
READ_BY_RANKS = (
    "VLLM_",
    "MASTER_",
    "TORCH",
    "PYTORCH_",
    "GLOO_",
    "NCCL_",
    "NVSHMEM_",
    "UCX_",
    "NIXL_",
    "RAY_",
    "CUDA_",
    "TRITON_",
    "OMP_",
    "HF_",
    "OTEL_",
    "LMCACHE_",
    "MOONCAKE_",
)

ADDRESS = r"(\d{1,3}(\.\d{1,3}){3}|[0-9a-fA-F:]*:[0-9a-fA-F:.]*)"
NUMBER = r"\d{1,5}"
URL = rf"(tcp|udp|sctp)://({ADDRESS}|\[{ADDRESS}\]):{NUMBER}"
FORMS = [
    (re.compile(name), re.compile(value))
    for name, value in [
        (r".+_PORT", URL),
        (r".+_PORT_\d+_(TCP|UDP|SCTP)", URL),
        (r".+_PORT_\d+_(TCP|UDP|SCTP)_PROTO", "tcp|udp|sctp"),
        (r".+_PORT_\d+_(TCP|UDP|SCTP)_PORT", NUMBER),
        (r".+_PORT_\d+_(TCP|UDP|SCTP)_ADDR", ADDRESS),
        (r".+_SERVICE_HOST", ADDRESS),
        (r".+_SERVICE_PORT(_[A-Z0-9_]+)?", NUMBER),
    ]
]


def is_service_link(name: str, value: str) -> bool:
    """Whether Kubernetes set this variable and no operator."""
    return any(of_name.fullmatch(name) and of_value.fullmatch(value) for of_name, of_value in FORMS)


def service_links(environ: Mapping[str, str]) -> list[str]:
    """The links that are ignored: of a name that would mean something to the gateway or to its ranks."""
    meaningful = (PREFIX, *READ_BY_RANKS)
    return sorted(
        name for name, value in environ.items() if name.startswith(meaningful) and is_service_link(name, value)
    )
