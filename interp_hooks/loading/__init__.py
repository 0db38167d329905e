"""From a HuggingFace checkpoint to a `HookedTransformer`.

families/   one table per architecture: how its config reads, how its tensors map onto ours
rules       the language of these tables
guard       refuses what a table does not read: config attributes, tensors
load        finds the checkpoint, converts it, processes it
folding     weight processing that changes no probability
"""
