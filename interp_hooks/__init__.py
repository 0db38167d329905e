"""Load a language model with a hook on every activation, and find out which parts of it cause what it does.

The names below are the public ones; each is imported when first used, so that `import interp_hooks` is quick.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "interp_hooks.config": ["ExpertsConfig", "HookedTransformerConfig"],
    "interp_hooks.components.kv_cache": ["KeyValueCache"],
    "interp_hooks.components.activations": ["gelu_new", "solu"],
    "interp_hooks.model": ["HookedTransformer", "Output"],
    "interp_hooks.losses": ["lm_cross_entropy_loss"],
    "interp_hooks.training": ["HookedTransformerTrainConfig", "train"],
    "interp_hooks.sampling": ["sample_logits"],
    "interp_hooks.hook_points": ["HookPoint"],
    "interp_hooks.hooks": ["HookedRootModule"],
    "interp_hooks.cache": ["ActivationCache"],
    "interp_hooks.slices": ["Slice"],
    "interp_hooks.factored": ["FactoredMatrix"],
    "interp_hooks.arrays": ["get_corner", "to_numpy"],
    "interp_hooks.names": ["get_act_name"],
    "interp_hooks.sites": ["Site", "at"],
    "interp_hooks.interventions": ["Intervention", "Mean", "Resample", "Run"],
    "interp_hooks.readout": ["Metric", "Readout"],
    "interp_hooks.recording": ["record"],
    "interp_hooks.interpreter": ["evaluate"],
    "interp_hooks.results": ["Result"],
    "interp_hooks.experiments.metrics": [
        "Accuracy",
        "KL",
        "LogProb",
        "LogitDiff",
        "LogitMargin",
        "Loss",
        "Prob",
        "ProbDiff",
        "Rank",
    ],
    "interp_hooks.experiments.sweep": ["sweep"],
    "interp_hooks.experiments.patching": ["patch"],
    "interp_hooks.experiments.ablation": ["ablate", "mean_activations", "noised_activations"],
    "interp_hooks.experiments.optimal": ["optimal_ablation", "optimal_constants"],
    "interp_hooks.experiments.paths": ["path_patch"],
    "interp_hooks.experiments.attribution": ["attribution_patch", "attribution_patches"],
    "interp_hooks.experiments.agreement": ["Agreement", "agreement"],
    "interp_hooks.experiments.gradients": ["gradient_x_input", "integrated_gradients"],
    "interp_hooks.experiments.steering": [
        "ablate_directions",
        "orthogonalize",
        "relative_norm",
        "steer",
        "steering_vector",
    ],
    "interp_hooks.experiments.subspace": ["patch_along"],
    "interp_hooks.experiments.tracing": ["causal_trace", "subject_tokens"],
    "interp_hooks.experiments.graph": ["Circuit", "ComputationGraph"],
    "interp_hooks.experiments.discovery": ["acdc", "eap", "eap_ig", "mask_gradient", "node_attribution"],
    "interp_hooks.experiments.faithfulness": [
        "circuit_metric",
        "curve_areas",
        "faithfulness",
        "faithfulness_curve",
        "random_baseline",
        "random_circuit",
        "roc_auc",
    ],
    "interp_hooks.experiments.hypotheses": ["Hypothesis", "Node"],
    "interp_hooks.experiments.scrubbing": ["scrub"],
    "interp_hooks.experiments.completeness": [
        "completeness",
        "greedy_subset",
        "minimality",
        "node_subsets",
        "random_subsets",
    ],
    "interp_hooks.experiments.tasks.ioi_text": ["PromptPairs", "ioi_pairs"],
    "interp_hooks.experiments.ioi_dataset": ["IOIDataset", "ioi_eval"],
    "interp_hooks.known.compiler": ["compile_program"],
    "interp_hooks.known.superposition": ["superposition"],
    "interp_hooks.known.system": ["KnownModel"],
    "interp_hooks.analysis.residual": ["LogitLens", "direct_logit_attribution", "logit_lens"],
    "interp_hooks.analysis.answers": ["test_prompt"],
    "interp_hooks.analysis.evals": ["induction_loss", "lm_accuracy"],
    "interp_hooks.analysis.head_detector": ["detect_head"],
    "interp_hooks.analysis.svd": ["SVDInterpreter"],
    "interp_hooks.viz.figures": ["bars", "heatmap"],
    "interp_hooks.viz.attention": ["attention_pattern"],
    "interp_hooks.viz.circuits": ["circuit_figure"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'interp_hooks' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
