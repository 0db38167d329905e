"""Models whose circuit is certain, because it was built in: what methods that look for circuits are checked against."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "activations": ["DrawnActivations", "PlantedFeatures", "planted_features"],
        "compiler": ["compile_program"],
        "grammar": ["number_agreement"],
        "heads": ["copy_suppression", "name_movers", "pointer_induction", "successor"],
        "recall_heads": ["function_vector", "mixed_recall"],
        "toy_models": ["superposition"],
        "system": ["GroundTruth", "KnownModel"],
    },
)
