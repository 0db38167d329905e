"""Studies of neurons, from what a model's weights say and from what a scan of a corpus found.

weights      the neurons of a layer: what they read, what they write, and the hook at which they show
vocabulary   what a neuron adds to the logits of all tokens: moments, the null space, labels, tokens at both ends
contexts     the examples of a scan as prompts
truncation   which tokens of an example a neuron needs
causes       what happens where a neuron is ablated
boosts       what a neuron adds to logits where it is active
illusions    whether two corpora show the same neuron
tables       a row for each neuron, a column for each metric
"""
