"""Which heads attend to what, what they write, and which role they have.

detector     how much a head attends as one of a known kind would, as TransformerLens scores it
metrics      what every head attends to, as sums that add up over batches
criteria     how strongly a head is at work at each query, for the examples at which it is most
vocabulary   what a head makes of each token, by its weights
sources      how much each earlier token adds to an answer through a head
roles        what a head is for: where it attends, and what happens without it
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
