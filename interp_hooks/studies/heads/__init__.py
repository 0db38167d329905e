"""Which heads attend to what, what they write, and which role they have.

detector     how much a head attends as one of a known kind would, as TransformerLens scores it
metrics      what every head attends to, as sums that add up over batches
criteria     how strongly a head is at work at each query, for the examples at which it is most
vocabulary   what a head makes of each token, by its weights
sources      how much each earlier token adds to an answer through a head
roles        what a head is for: where it attends, and what happens without it
inputs       how a head makes queries, keys and values of the stream, linear where norms are those of a run
scores       an attention score as a sum over what wrote its query and its key
offsets      scores as curves over how far the key stands before the query
composing    what comes to a head through each earlier one, on prompts
hops         the same from token to token
affinity     how the weights of two heads fit, beside chance
pairs        which heads work together: shares, weights and path patching side by side
"""

from interp_hooks.studies.heads.detector import (
    HEAD_NAMES,
    PATTERNS,
    ErrorMeasure,
    HeadName,
    Heads,
    compute_head_attention_similarity_score,
    detect_head,
    get_duplicate_token_head_detection_pattern,
    get_induction_head_detection_pattern,
    get_previous_token_head_detection_pattern,
    get_supported_heads,
    head_scores,
)

__all__ = [
    "HEAD_NAMES",
    "PATTERNS",
    "ErrorMeasure",
    "HeadName",
    "Heads",
    "compute_head_attention_similarity_score",
    "detect_head",
    "get_duplicate_token_head_detection_pattern",
    "get_induction_head_detection_pattern",
    "get_previous_token_head_detection_pattern",
    "get_supported_heads",
    "head_scores",
]
