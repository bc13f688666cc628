"""Load tests: httpx clients against simulated ranks (`make load`), or against any service (`make load URL=...`)."""
