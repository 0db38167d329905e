"""Many texts: read once, for whatever is asked of them; as rows of tokens; and how well a model predicts them."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "texts": ["corpus_texts", "tokenize_and_concatenate"],
        "evals": ["induction_loss", "lm_accuracy"],
        "reading": ["documents"],
        "scanning": ["Scan", "gather", "scan"],
        "drivers": ["scan_by_rank", "scan_on_ray"],
        "units": ["Seen", "Units", "coordinates", "neurons"],
        "labels": ["Labels", "by_document", "by_token"],
        "reducers.active": ["ActiveUnits"],
        "reducers.base": ["Reducer"],
        "reducers.labelled": ["LabelledMoments", "LinearHits"],
        "reducers.top": ["TopK"],
        "reducers.bands": ["Bands"],
        "reducers.statistics": ["CoActivation", "Histogram", "MeanByToken", "Moments", "Statistics"],
    },
)
