"""What do activations do? Experiments over interventions, and their results."""

from interp_hooks import lazily

__getattr__, __dir__, __all__ = lazily(
    __name__,
    {
        "results.result": ["Result"],
        "patching": ["patch", "sweep"],
        "ablation": ["ablate", "mean_activations", "noised_activations"],
        "optimal": ["optimal_ablation", "optimal_constants"],
        "paths": ["path_patch"],
        "subspace": ["patch_along"],
        "tracing": ["causal_trace", "subject_tokens"],
        "attribution": ["attribution_patch", "attribution_patches"],
        "estimates": ["Agreement", "agreement"],
        "gradients": ["gradient_x_input", "integrated_gradients"],
        "task": ["Task"],
        "steering": ["ablate_directions", "orthogonalize", "relative_norm", "steer", "steering_vector"],
    },
)
