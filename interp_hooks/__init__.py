"""Load a language model with a hook on every activation, and find out which parts of it cause what it does.

The names below are the public ones, by subject; what is needed less often is in the room that it belongs to:
`from interp_hooks import circuits`, then `circuits.minimality(...)`. Every name is imported when it is first used, so
that `import interp_hooks` is quick.
"""

import gc
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# Subject -> module -> names.
SUBJECTS: dict[str, dict[str, list[str]]] = {
    "models": {
        "model.transformer": ["HookedTransformer"],
        "model.config": ["ExpertsConfig", "HookedTransformerConfig"],
        "model.cache.activation_cache": ["ActivationCache"],
        "model.components.kv_cache": ["KeyValueCache"],
        "model.factored": ["FactoredMatrix"],
        "hooks.points": ["HookPoint"],
        "hooks.root_module": ["HookedRootModule"],
    },
    "interventions": {
        "interventions.sites": ["Site", "Source", "at"],
        "interventions.runs": ["Intervention", "Mean", "Resample", "Run"],
        "interventions.recording": ["record"],
        "interventions.engine": ["evaluate"],
    },
    "metrics": {
        "interventions.readout": ["Metric", "Readout"],
        "interventions.metrics": [
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
    },
    "experiments": {
        "experiments.results.result": ["Result"],
        "experiments.patching": ["patch", "sweep"],
        "experiments.ablation": ["ablate"],
        "experiments.optimal": ["optimal_ablation"],
        "experiments.paths": ["path_patch"],
        "experiments.subspace": ["patch_along"],
        "experiments.tracing": ["causal_trace"],
        "experiments.attribution": ["attribution_patch", "attribution_patches"],
        "experiments.estimates": ["agreement"],
        "experiments.gradients": ["gradient_x_input", "integrated_gradients"],
        "experiments.steering": ["ablate_directions", "orthogonalize", "steer", "steering_vector"],
    },
    "circuits": {
        "circuits.circuit": ["Circuit", "ComputationGraph"],
        "circuits.discovery": ["acdc", "eap", "eap_ig"],
        "circuits.measures": ["faithfulness"],
        "circuits.hypotheses": ["Hypothesis", "Node"],
        "circuits.scrubbing": ["scrub"],
    },
    "tasks": {"experiments.task": ["Task"], "tasks.ioi_text": ["ioi_pairs"]},
    "studies": {
        "studies.lenses": ["logit_lens"],
        "studies.logit_attribution": ["direct_logit_attribution"],
        "studies.heads": ["detect_head", "head_scores"],
    },
    "views": {
        "views.figures": ["bars", "heatmap"],
        "views.attention": ["attention_pattern"],
        "views.circuits": ["circuit_figure"],
    },
}
ROOMS = (
    *(
        "circuits",
        "compat",
        "corpus",
        "dictionaries",
        "errors",
        "experiments",
        "ground_truth",
        "hooks",
        "interventions",
        "loading",
    ),
    *("model", "studies", "tasks", "views"),
)

# What was here once: the room that has it now.
MOVED_NAMES = {
    **dict.fromkeys(("HookedTransformerTrainConfig", "Output", "gelu_new", "lm_cross_entropy_loss"), "model"),
    **dict.fromkeys(("sample_logits", "solu", "train"), "model"),
    **dict.fromkeys(("Slice", "get_act_name"), "hooks"),
    **dict.fromkeys(("Agreement", "mean_activations", "noised_activations", "optimal_constants"), "experiments"),
    **dict.fromkeys(("relative_norm", "subject_tokens"), "experiments"),
    **dict.fromkeys(("circuit_metric", "completeness", "curve_areas", "faithfulness_curve"), "circuits"),
    **dict.fromkeys(("greedy_subset", "mask_gradient", "minimality", "node_attribution", "node_subsets"), "circuits"),
    **dict.fromkeys(("random_baseline", "random_circuit", "random_subsets", "roc_auc"), "circuits"),
    "PromptPairs": "tasks",
    **dict.fromkeys(("KnownModel", "compile_program", "superposition"), "ground_truth"),
    **dict.fromkeys(("LogitLens", "SVDInterpreter"), "studies"),
    **dict.fromkeys(("induction_loss", "lm_accuracy"), "corpus"),
    **dict.fromkeys(("get_corner", "to_numpy"), "views"),
    **dict.fromkeys(("IOIDataset", "ioi_eval", "test_prompt"), "compat"),
}
# Modules that code and saved results of 0.1 name, and where what they had is now.
MOVED_MODULES = {
    "analysis": "studies",
    "analysis.answers": "compat.answers",
    "analysis.corpora": "corpus.texts",
    "analysis.evals": "corpus.evals",
    "analysis.fourier": "studies.fourier",
    "analysis.head_detector": "studies.heads",
    "analysis.mmlu": "compat.mmlu",
    "analysis.residual": "studies.lenses",
    "analysis.svd": "studies.svd",
    "components": "model.components",
    "experiments.completeness": "circuits.subsets",
    "experiments.discovery": "circuits.discovery",
    "experiments.faithfulness": "circuits.measures",
    "experiments.graph": "circuits.circuit",
    "experiments.hypotheses": "circuits.hypotheses",
    "experiments.ioi_dataset": "compat.ioi_dataset",
    "experiments.metrics": "interventions.metrics",
    "experiments.scrubbing": "circuits.scrubbing",
    "experiments.sweep": "experiments.patching",
    "experiments.tasks": "tasks",
    "experiments.tasks.task": "tasks.in_words",
    "hook_points": "hooks.points",
    "known": "ground_truth",
    "known.superposition": "ground_truth.toy_models",
    "patching": "compat.patching",
    "viz": "views",
}


@contextmanager
def without_collecting() -> Iterator[None]:
    """Python looks for no unreachable objects here: imports and vocabularies make many objects, and leave nearly none.

    Looking through all of them again and again would take a quarter of the time of a first load.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def lazily(
    room: str, homes: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package whose names, by module, are imported when first used."""
    home_of = {name: f"{room}.{home}" for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {room!r} has no attribute {name!r}; it has {', '.join(sorted(home_of))}")
        with without_collecting():
            return getattr(import_module(home_of[name]), name)

    names = sorted(home_of)
    return find, lambda: names, names


_public, _, __all__ = lazily(__name__, {home: names for homes in SUBJECTS.values() for home, names in homes.items()})


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return import_module(f"{__name__}.{name}")
    if name in MOVED_NAMES:
        room = f"{__name__}.{MOVED_NAMES[name]}"
        _say_where(f"{__name__}.{name}", f"from {room} import {name}")
        return getattr(import_module(room), name)
    return _public(name)


def __dir__() -> list[str]:
    return [*__all__, *ROOMS]


def today(module: str) -> str:
    """Where what a module of 0.1 had is now, both as names within this package."""
    for end in range(len(parts := module.split(".")), 0, -1):
        if (old := ".".join(parts[:end])) in MOVED_MODULES:
            return ".".join([MOVED_MODULES[old], *parts[end:]])
    return module


class _Moved(MetaPathFinder, Loader):
    """Imports of modules that have moved give the modules themselves."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        package, _, old = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == __name__ and today(old) != old else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{__name__}.{today(spec.name.partition('.')[2])}"
        _say_where(spec.name, f"import {new}")
        module = import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # its own, which the import system has just replaced


def _say_where(old: str, now: str) -> None:
    warnings.warn(f"{old} has moved: {now}", FutureWarning, stacklevel=3)


sys.meta_path.insert(0, _Moved())
