"""The import name of TransformerLens, for code that cannot be edited: a table of aliases, and nothing behind it.

    from interp_hooks import compat
    compat.install()
    from transformer_lens import HookedTransformer, utils        # interp_hooks.HookedTransformer, ...

Every name is the very object that this package has; where it is called otherwise here, the table says how. What has no
counterpart is an error that says what to do instead. Code that can be edited imports from `interp_hooks`.
"""

import sys
from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from interp_hooks.compat.absent import ABSENT
from interp_hooks.errors import nearest

NAME = "transformer_lens"


def _of(home: str, *names: str, **renamed: str) -> dict[str, str]:
    """Names that one module of ours has; `theirs="ours"` where the two differ."""
    return {
        theirs: f"interp_hooks.{home}:{ours}" for theirs, ours in ({name: name for name in names} | renamed).items()
    }


_CACHE = _of("cache", "ActivationCache")
_CONFIG = _of("config", "HookedTransformerConfig")
_ENCODER = _of("compat.classes", "HookedEncoder")
_FACTORED = _of("factored", "FactoredMatrix")
_KEYS_AND_VALUES = _of(
    "components.kv_cache", HookedTransformerKeyValueCache="KeyValueCache", TransformerLensKeyValueCache="KeyValueCache"
)
_LOADING = {
    **_of("loading.source", get_official_model_name="locate"),
    **_of("loading.training_steps", get_checkpoint_labels="checkpoint_labels"),
}
_MODEL = _of("model", "HookedTransformer")
_ROOT_MODULE = _of("hooks", "HookedRootModule")
_SVD = _of("analysis.svd", "SVDInterpreter")
_UTILITIES = {
    **_of("analysis.answers", "test_prompt"),
    **_of("analysis.corpora", "tokenize_and_concatenate"),
    **_of("analysis.evals", "lm_accuracy"),
    **_of("arrays", "get_corner", "to_numpy"),
    **_of("components.activations", "gelu_fast", "gelu_new", "solu"),
    **_of("factored", "composition_scores"),
    **_of("loading.load", get_device="default_device"),
    **_of("losses", "lm_cross_entropy_loss"),
    **_of("names", "get_act_name"),
    **_of("sampling", "sample_logits"),
    **_of("slices", "Slice", "SliceInput"),
    **_of("tokens", LocallyOverridenDefaults="overridden_defaults"),
}

# Submodule -> name -> where it is here. A string is a module of ours whose `__all__` has the same names there.
MODULES: dict[str, Mapping[str, str] | str] = {
    "": {**_CACHE, **_CONFIG, **_ENCODER, **_FACTORED, **_KEYS_AND_VALUES, **_MODEL, **_ROOT_MODULE, **_SVD},
    "ActivationCache": _CACHE,
    "FactoredMatrix": _FACTORED,
    "HookedEncoder": _ENCODER,
    "HookedRootModule": _ROOT_MODULE,
    "HookedTransformer": {**_MODEL, **_of("model", "Output")},
    "HookedTransformerConfig": _CONFIG,
    "SVDInterpreter": _SVD,
    "cache": _KEYS_AND_VALUES,
    "cache.key_value_cache": _KEYS_AND_VALUES,
    "components": {
        **_of(
            "components.attention", "Attention", AbstractAttention="AttentionCore", GroupedQueryAttention="Attention"
        ),
        **_of("compat.classes", "LayerNorm", "LayerNormPre", "RMSNorm", "RMSNormPre"),
        **_of("components.block", "TransformerBlock"),
        **_of("components.embed", "Embed", "TokenTypeEmbed", "Unembed", BertMLMHead="MLMHead"),
        **_of("components.mlp", "GatedMLP", "MLP"),
        **_of("components.moe", "MoE"),
        **_of("components.positions", PosEmbed="LearnedPositions"),
    },
    "config": _CONFIG,
    "evals": {
        **_of("analysis.corpora", *(f"make_{name}_data_loader" for name in ("wiki", "owt", "pile", "code"))),
        **_of("analysis.evals", "evaluate", "evaluate_on_dataset", "induction_loss", "sanity_check"),
        **_of("analysis.mmlu", "mmlu_eval"),
        **_of("experiments.ioi_dataset", "IOIDataset", "ioi_eval"),
    },
    "head_detector": _of(
        "analysis.head_detector",
        *("ErrorMeasure", "HEAD_NAMES", "HeadName", "compute_head_attention_similarity_score", "detect_head"),
        *(f"get_{kind}_head_detection_pattern" for kind in ("previous_token", "duplicate_token", "induction")),
        "get_supported_heads",
    ),
    "hook_points": {
        **_of("hook_points", "HookPoint", HookFunction="HookFn", LensHandle="Hook", NamesFilter="NameFilter"),
        **_ROOT_MODULE,
    },
    "loading": _LOADING,
    "loading_from_pretrained": _LOADING,
    "past_key_value_caching": _KEYS_AND_VALUES,
    "patching": "interp_hooks.patching",
    "tools": {},
    "tools.analysis": {
        **_of("analysis.residual", "DirectLogitAttribution", "direct_logit_attribution"),
        **_of("patching", "get_act_patch_direct_path", "get_act_patch_direct_path_all_sources"),
    },
    "train": _of("training", "HookedTransformerTrainConfig", "train"),
    "utilities": _UTILITIES,
    "utils": _UTILITIES,
}


class _Alias(ModuleType):
    """A module of the table; its names are looked up when they are used."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{NAME}.{path}" if path else NAME, f"Names of interp_hooks; see {__name__}.")
        self._table = MODULES[path]
        self.__path__ = []  # a package, so that the import of what it lacks comes to `_Missing`
        self.__spec__ = ModuleSpec(self.__name__, None, is_package=True)

    @cached_property
    def _homes(self) -> Mapping[str, str]:
        table = self._table
        return {name: f"{table}:{name}" for name in import_module(table).__all__} if isinstance(table, str) else table

    @property
    def __all__(self) -> list[str]:
        return sorted(self._homes)

    def __dir__(self) -> list[str]:
        inside = [name.rpartition(".")[2] for name in sys.modules if name.rpartition(".")[0] == self.__name__]
        return sorted({*self._homes, *inside})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked of every module there is, as by `inspect`
            raise AttributeError(name)
        if name in self._homes:
            home, _, ours = self._homes[name].partition(":")
            return getattr(import_module(home), ours)
        if isinstance(submodule := sys.modules.get(f"{self.__name__}.{name}"), _Alias):
            return submodule
        raise AttributeError(_absent(self, name))


class _Missing:
    """Tells an import of something that has no alias why, where Python would only say that it is not there."""

    @staticmethod
    def find_spec(fullname: str, path: object = None, target: object = None) -> None:
        parent, _, name = fullname.rpartition(".")
        if isinstance(module := sys.modules.get(parent), _Alias):
            raise ImportError(_absent(module, name), name=fullname)


def _absent(module: _Alias, name: str) -> str:
    instead = f": {ABSENT[name]}." if name in ABSENT else f".{nearest(name, dir(module))}"
    return f"interp_hooks has no counterpart of {module.__name__}.{name}{instead}"


def install() -> None:
    """Make `import transformer_lens`, and its submodules in `MODULES`, mean this package in this process.

    Raises:
        ImportError: the real one is imported already.
    """
    there = sys.modules.get(NAME)
    if isinstance(there, _Alias):
        return
    if there is not None:
        raise ImportError(
            f"{NAME} itself is imported already ({there}), so that some code has its classes: call "
            "interp_hooks.compat.install() in a fresh process, before anything imports it"
        )
    for path in MODULES:
        module = _Alias(path)
        sys.modules[module.__name__] = module
    sys.meta_path.insert(0, _Missing)
