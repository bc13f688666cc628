"""`phalanx` as a child that ends with its parent: `python -m phalanx.generate.tether PARENT ARGUMENTS`.

The kernel sends it SIGTERM when the parent dies, however that happens, so no service is left without its job.
"""

import ctypes
import os
import signal
import sys

from phalanx.cli import main

PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):  # it died before that
        sys.exit(1)
    main(sys.argv[2:])
