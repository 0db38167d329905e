"""Where, what to put there, who sees it: interventions as plain values, and the engine that runs them."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "sites": ["Here", "Site", "Source", "at"],
        "runs": ["Intervention", "Mean", "Resample", "Run"],
        "subspaces": ["Eraser", "Pointwise"],
        "recording": ["record"],
        "engine": ["evaluate"],
        "readout": ["Metric", "Readout"],
        "metrics": ["Accuracy", "KL", "LogProb", "LogitDiff", "LogitMargin", "Loss", "Prob", "ProbDiff", "Rank"],
    },
)
