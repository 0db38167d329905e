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

from interp_hooks import lazily
from interp_hooks.compat.absent import ABSENT
from interp_hooks.errors import nearest

NAME = "transformer_lens"

__getattr__, __all__ = lazily(
    __name__,
    {
        "answers": ["test_prompt"],
        "ioi_dataset": ["IOIDataset", "ioi_eval"],
        "mmlu": ["mmlu_eval"],
        "sae_transformer": ["HookedSAETransformer"],
    },
)
__all__ += ["install"]


def _of(home: str, *names: str, **renamed: str) -> dict[str, str]:
    """Names that one module of ours has; `theirs="ours"` where the two differ."""
    return {
        theirs: f"interp_hooks.{home}:{ours}" for theirs, ours in ({name: name for name in names} | renamed).items()
    }


_CACHE = _of("model.cache.activation_cache", "ActivationCache")
_CONFIG = _of("model.config", "HookedTransformerConfig")
_ENCODER = _of("compat.classes", "HookedEncoder")
_FACTORED = _of("model.factored", "FactoredMatrix")
_KEYS_AND_VALUES = _of(
    "model.components.kv_cache",
    HookedTransformerKeyValueCache="KeyValueCache",
    TransformerLensKeyValueCache="KeyValueCache",
)
_LOADING = {
    **_of("loading.source", get_official_model_name="locate"),
    **_of("loading.training_steps", get_checkpoint_labels="checkpoint_labels"),
}
_MODEL = _of("model.transformer", "HookedTransformer")
_ROOT_MODULE = _of("hooks.root_module", "HookedRootModule")
_SVD = _of("studies.svd", "SVDInterpreter")
_UTILITIES = {
    **_of("compat.answers", "test_prompt"),
    **_of("corpus.texts", "tokenize_and_concatenate"),
    **_of("corpus.evals", "lm_accuracy"),
    **_of("views.arrays", "get_corner", "to_numpy"),
    **_of("model.components.mlp", "gelu_fast", "gelu_new", "solu"),
    **_of("model.factored", "composition_scores"),
    **_of("loading.load", get_device="default_device"),
    **_of("model.losses", "lm_cross_entropy_loss"),
    **_of("hooks.names", "get_act_name"),
    **_of("model.sampling", "sample_logits"),
    **_of("hooks.slices", "Slice", "SliceInput"),
    **_of("model.tokens", LocallyOverridenDefaults="overridden_defaults"),
}

# Submodule -> name -> where it is here. A string is a module of ours whose `__all__` has the same names there.
MODULES: dict[str, Mapping[str, str] | str] = {
    "": {**_CACHE, **_CONFIG, **_ENCODER, **_FACTORED, **_KEYS_AND_VALUES, **_MODEL, **_ROOT_MODULE, **_SVD},
    "ActivationCache": _CACHE,
    "FactoredMatrix": _FACTORED,
    "HookedEncoder": _ENCODER,
    "HookedRootModule": _ROOT_MODULE,
    "HookedTransformer": {**_MODEL, **_of("model.network", "Output")},
    "HookedTransformerConfig": _CONFIG,
    "SVDInterpreter": _SVD,
    "cache": _KEYS_AND_VALUES,
    "cache.key_value_cache": _KEYS_AND_VALUES,
    "components": {
        **_of(
            "model.components.attention",
            "Attention",
            AbstractAttention="AttentionCore",
            GroupedQueryAttention="Attention",
        ),
        **_of("compat.classes", "LayerNorm", "LayerNormPre", "RMSNorm", "RMSNormPre"),
        **_of("model.components.block", "TransformerBlock"),
        **_of(
            "model.components.embed",
            *("Embed", "TokenTypeEmbed", "Unembed"),
            BertMLMHead="MLMHead",
            PosEmbed="LearnedPositions",
        ),
        **_of("model.components.mlp", "GatedMLP", "MLP"),
        **_of("model.components.moe", "MoE"),
    },
    "config": _CONFIG,
    "evals": {
        **_of("corpus.texts", *(f"make_{name}_data_loader" for name in ("wiki", "owt", "pile", "code"))),
        **_of("corpus.evals", "evaluate_on_dataset", "induction_loss", "sanity_check", evaluate="corpus_losses"),
        **_of("compat.mmlu", "mmlu_eval"),
        **_of("compat.ioi_dataset", "IOIDataset", "ioi_eval"),
    },
    "head_detector": _of(
        "studies.heads",
        *("ErrorMeasure", "HEAD_NAMES", "HeadName", "compute_head_attention_similarity_score", "detect_head"),
        *(f"get_{kind}_head_detection_pattern" for kind in ("previous_token", "duplicate_token", "induction")),
        "get_supported_heads",
    ),
    "hook_points": {
        **_of("hooks.points", "HookPoint", HookFunction="HookFn", LensHandle="Hook", NamesFilter="NameFilter"),
        **_ROOT_MODULE,
    },
    "loading": _LOADING,
    "loading_from_pretrained": _LOADING,
    "past_key_value_caching": _KEYS_AND_VALUES,
    "patching": "interp_hooks.compat.patching",
    "tools": {},
    "tools.analysis": {
        **_of("studies.logit_attribution", "DirectLogitAttribution", "direct_logit_attribution"),
        **_of("compat.patching", "get_act_patch_direct_path", "get_act_patch_direct_path_all_sources"),
    },
    "train": _of("model.training", "HookedTransformerTrainConfig", "train"),
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
