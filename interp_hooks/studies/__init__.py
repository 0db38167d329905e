"""Studies of what a part of the model is for: lenses, heads, singular vectors, waves."""

from interp_hooks import lazily

__getattr__, __all__ = lazily(
    __name__,
    {
        "lenses": ["LogitLens", "direct_logit_attribution", "logit_lens"],
        "heads": ["detect_head", "head_scores"],
        "svd": ["SVDInterpreter"],
        "wikis.columns": ["Column"],
        "wikis.comparing": ["compare"],
        "wikis.making": ["wiki"],
        "wikis.tables": ["Wiki"],
    },
)


def __dir__() -> list[str]:
    return __all__
