"""Services that others would write instead of Phalanx, with the simulated engine's work behind them. Each runs in a
process of its own, in an environment that may have nothing of the gateway's."""
