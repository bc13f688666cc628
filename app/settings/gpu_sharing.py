"""Settings of ranks that share a GPU."""

from app.settings.section import Section, setting


class GpuSharingSettings(Section):
    """Ranks that share a GPU: for models that are too small to keep it busy"""

    ranks_per_gpu: int = setting(1, "Ranks on each GPU, each with its own copy of the model.", ge=1, le=16)
    mps: bool = setting(True, "Ranks of a GPU compute at the same time, by NVIDIA's MPS; else they take turns.")
