"""`phalanx tune MODEL`: how a model is served the fastest on this machine, measured, and kept for `phalanx serve`.

`command` is the command line and imports nothing heavy. `run` is what happens, from the top: settings become candidates
one after another (`search`, which decides and does nothing), each is served and given the same work (`measuring`,
`workload`) as long as the budget lasts, what was measured is kept so that the same command goes on (`sweep`), and the
fastest is written where the service looks for it.
"""
