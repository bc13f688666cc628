"""`phalanx generate IN OUT`: a file of rows through a service as one detached batch, and a file of rows out of it.

`command` is the command line and imports nothing heavy. `run` is what happens, from the top: the input is read once for
its digest, a prompt is made of each row and sent (`delivery`), results are kept in a spool as they come, in the order
in which they were done (`spool`), and in the end rows and results are merged into the output (`merge`). What is needed
to go on after a kill stands in files beside the output (`workplace`, `job`).
"""
