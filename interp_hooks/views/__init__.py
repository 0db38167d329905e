"""Pictures and pages made of results."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "figures": ["bars", "heatmap"],
        "attention": ["attention_pattern"],
        "circuits": ["circuit_figure", "stability_figure"],
        "token_colours": ["coloured_tokens"],
        "feature_circuits": ["feature_circuit_figure"],
        "heads": ["head_scatter"],
        "attention_heads": ["attention_page"],
        "attribution_graphs": ["attribution_graph_page"],
        "differences": ["difference_page"],
        "lenses": ["lens_figure"],
        "alt_texts": ["alt_text"],
        "pictures": ["picture", "to_png", "to_svg"],
        "recovered": ["recovery_figure"],
        "training": ["training_figure"],
        "training_report": ["write_training_report"],
        "arrays": ["get_corner", "to_numpy"],
    },
)
