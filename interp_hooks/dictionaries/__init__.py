"""Sparse dictionaries: SAEs, transcoders and crosscoders; read, spliced into models, trained, evaluated."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "activations": ["Activation", "BatchTopK", "Gated", "JumpReLU", "ReLU", "TopK"],
        "base": ["Dictionary"],
        "recipe": ["Recipe"],
        "training": ["train_by_rank", "train_dictionaries", "train_on_activations"],
        "single": ["SAE", "Transcoder"],
        "cross_layer": ["CrossLayerTranscoder"],
        "crosscoder": ["Crosscoder"],
        "evaluation": ["DictionaryMetrics", "dictionary_metrics", "random_dictionary"],
        "files": ["load", "save"],
        "inputs": ["adapted"],
        "hierarchies": [
            *("Absorption", "Hedging", "Recovery", "absorption", "hedging", "planted_metrics"),
            *("recovery", "superposition_recovery"),
        ],
    },
)
