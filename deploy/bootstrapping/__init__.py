"""Makes the virtual environment that Phalanx runs in, with the standard library alone.

decisions.py says what to do and what stands in the way; machine.py looks at the machine, environment.py keeps the
environment's folder, installer.py acts, cli.py ties them together.
"""
