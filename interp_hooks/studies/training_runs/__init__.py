"""What changed while a model was trained, and when.

checkpoints  the states of a training as a list, each loaded when it is asked for
measures     what is measured of each: losses, attention of heads, composition, norms, waves
store        what was measured, on disk: a small file for each checkpoint
watching     one checkpoint after the other, or while the training goes on
changes      which measures changed faster than before and after, and when
"""
