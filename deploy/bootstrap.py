"""Sets up .venv with all that `phalanx serve` needs on this machine: python3 deploy/bootstrap.py --help.

Needs nothing but a system Python. This file parses on any Python there is, so that one too old gets a sentence and not
a SyntaxError; the work is in deploy/bootstrapping/.
"""

import sys

if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.stderr.write(
        "Phalanx needs Python 3.11 to 3.13; this is %d.%d. "
        "Install one of them, or name the one you have with PYTHON=/path/to/python3.12.\n" % sys.version_info[:2]
    )
    sys.exit(2)

from bootstrapping.cli import main

if __name__ == "__main__":
    sys.exit(main())
