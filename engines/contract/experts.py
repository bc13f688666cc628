"""By which fields a model's config.json says how many experts it has."""

EXPERT_FIELDS = ("num_experts", "moe_num_experts", "n_routed_experts", "num_local_experts")  # in vLLM's order
