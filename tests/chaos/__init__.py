"""Randomised rounds of what goes wrong, on simulated ranks. `make chaos` runs them."""
