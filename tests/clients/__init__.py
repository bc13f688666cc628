"""Other people's clients, unmodified, against a running service. `make clients` runs it."""
