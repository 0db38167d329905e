"""Linear probes: how they are fitted, and what a model's activations tell, beside controls."""
