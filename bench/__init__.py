"""Measurements, each printing its figures from one run. `python -m bench` lists them."""
