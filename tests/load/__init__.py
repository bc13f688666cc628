"""Load tests: httpx clients against simulated ranks. `make load` runs them."""
