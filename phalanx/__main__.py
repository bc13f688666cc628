"""`python -m phalanx`, where the console script is not on the path."""

from phalanx.cli import main

main()
