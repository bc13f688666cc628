"""Many ranks by simulation: the real dispatcher and the real admission, with a clock and ranks that are played.

Behaviour is by the simulated clock, and the same in every run. What the gateway's code takes of the CPU is measured
where it is called: dispatching, admission, a batch's figures. Reading requests, the wire, JSON and the journal are not
in it: `python -m bench gateway` and `python -m bench batches` measure a whole gateway.
"""

from bench.scale.command import main

__all__ = ["main"]
