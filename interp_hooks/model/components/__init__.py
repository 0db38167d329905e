"""The parts of a transformer block. They know sizes and choices from the config, and no checkpoint by name.

Weights read as the field writes them, `[n_heads, d_model, d_head]` and right-multiplying, but lie in memory as
`torch.nn.Linear` keeps them, so that a forward pass is a plain matrix product on a view and copies no weight.
"""
