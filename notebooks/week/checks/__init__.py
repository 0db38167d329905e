"""The checks of the training week: each runs an answer on inputs that the notebook does not show.

A check prints a line if the answer is right, and raises `NotRight` otherwise, which names the exercise and says what is
off without giving the answer away. Functions are tried on models with random weights and compared with another way to
the same number; values are tried out on the model that they are about.
"""

from checks.answers import NotRight
from checks.brackets import elevation, explained, failures, fools, restored, tellers, two_exchanged
from checks.causal_scrubbing import (
    by_guessing,
    chance_of_itself,
    layer_1_tells,
    nodes_of_keys,
    position_of_the_feature,
    recovered,
    same_feature,
)
from checks.graph_surgery import attention, heads_write, patch_run, patched_logits, sites, stream_norms, without_head
from checks.induction import attention_back, exchanged, k_composition, matching, needed, ov_circuit, repeated_words
from checks.ioi import corruptions, direct_effects, finding, logit_difference, movers, notices, told_to_movers
from checks.research_log import candidate, claim_alone, confirmed, interval, log, same_winner, two_tasks
