"""Which edges matter? Graphs, circuits, how they are found, and how claims about them are tested."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "attribution_graphs.attention": ["edge_heads", "score_terms"],
        "attribution_graphs.files": ["load_graph", "load_supernodes", "save_graph"],
        "attribution_graphs.graph": ["AttributionGraph", "suggested_supernodes"],
        "attribution_graphs.interventions": ["check_graph"],
        "attribution_graphs.tracing": ["attribution_graph"],
        "circuit": ["Circuit", "ComputationGraph"],
        "discovery": ["acdc", "eap", "eap_ig", "mask_gradient", "node_attribution"],
        "feature_circuits": ["FeatureCircuit", "FeatureFaithfulness", "feature_circuit", "feature_faithfulness"],
        "measures": [
            "circuit_metric",
            "curve_areas",
            "faithfulness",
            "faithfulness_curve",
            "random_baseline",
            "random_circuit",
            "roc_auc",
        ],
        "subsets": ["completeness", "greedy_subset", "minimality", "node_subsets", "random_subsets"],
        "hypotheses": ["Hypothesis", "Node"],
        "scrubbing": ["scrub"],
        "stability": ["Stability", "circuit_stability"],
    },
)
