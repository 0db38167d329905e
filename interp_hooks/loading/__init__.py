"""From a HuggingFace checkpoint to a `HookedTransformer`.

families/   one table per architecture: how its config reads, how its tensors map onto ours
rules       the language of these tables
guard       refuses what a family does not read: config attributes, tensors
source      where a checkpoint is, told from its name
load        finds a HuggingFace checkpoint, converts it, processes it
formats     checkpoints of TransformerLens, nanoGPT and minGPT
native      folders that this package saves
folding     weight processing that changes no probability; processing does it to state dicts
export      back to HuggingFace
parity      compares a converted model with HuggingFace's
training_steps  the checkpoints that were kept of a training; keeping keeps them
"""
