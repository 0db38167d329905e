"""`HookedSAETransformer`: SAELens' calls for models with dictionaries in them, over `model.spliced`.

    model = HookedSAETransformer.from_pretrained("gpt2")
    logits, cache = model.run_with_cache_with_saes(tokens, saes=sae)
    cache["blocks.8.hook_resid_pre.hook_sae_acts_post"]         which is ...hook_resid_pre.sae.hook_features here

Caches of `run_with_cache_with_saes` have SAELens' names beside ours; hooks are named as here. An SAE that is added
takes the place of one that stands at the same hook, as there. A dictionary that does not fit is refused, where SAELens
logs a warning and goes on without it; special tokens cannot be excluded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.splicing import Spliced
from interp_hooks.errors import BadInput
from interp_hooks.model.cache.activation_cache import ActivationCache
from interp_hooks.model.transformer import HookedTransformer

NAME = "sae"
THEIRS = {
    "pre": "hook_sae_acts_pre",
    "features": "hook_sae_acts_post",
    "reconstruction": "hook_sae_recons",
    "error": "hook_sae_error",
}
SAEs = Dictionary | Sequence[Dictionary]


class HookedSAETransformer(HookedTransformer):
    """A `HookedTransformer` with SAELens' calls: `add_sae`, `reset_saes`, `saes`, `run_with_saes` and its kin.

    `acts_to_saes` are the dictionaries that are attached, by the hook that they read.

    >>> from interp_hooks.compat.sae_transformer import HookedSAETransformer
    >>> from interp_hooks import dictionaries
    >>> model = HookedSAETransformer.from_pretrained("ioi-tiny", device="cpu")
    >>> sae = dictionaries.load("ioi-tiny/sae")
    >>> _, cache = model.run_with_cache_with_saes(clean, saes=sae)
    >>> cache["blocks.1.hook_resid_post.hook_sae_acts_post"].shape
    torch.Size([4, ..., 512])
    """

    @property
    def acts_to_saes(self) -> dict[str, Dictionary]:
        return {hook: dictionary for hook, (dictionary, _, _) in self._attached().items()}

    def _attached(self) -> dict[str, tuple[Dictionary, bool, Spliced]]:
        return self.__dict__.setdefault("_saes", {})

    def add_sae(self, sae: Dictionary, use_error_term: bool | None = None) -> None:
        """Attach a dictionary until `reset_saes`, in place of one that is attached to the same hook.

        Raises:
            UnknownHook, BadInput: it does not fit the model; what was attached still is.
            HookConflict: another module stands where it writes.
        """
        if not isinstance(sae, Dictionary):
            raise BadInput(f"expected a dictionary (interp_hooks.dictionaries.load), got {type(sae).__name__}")
        sae.refuse_unfit(self)
        hook, error_term = sae.hooks_in[0], bool(use_error_term)
        if hook in self._attached():
            self.reset_saes(hook)
        spliced = sae.splice_into(self, name=NAME, error_term=error_term)
        self._attached()[hook] = (sae, error_term, spliced)

    def reset_saes(self, act_names: str | Sequence[str] | None = None) -> None:
        """Detach all dictionaries, or those of some hooks.

        Raises:
            BadInput: none is attached there; all are left as they are.
        """
        there = self._attached()
        names = [act_names] if isinstance(act_names, str) else list(there if act_names is None else act_names)
        if absent := [name for name in names if name not in there]:
            raise BadInput(f"no dictionary is attached to {absent[0]}; there are {', '.join(there) or 'none'}")
        for name in names:
            there.pop(name)[2].remove()

    @contextmanager
    def saes(
        self, saes: SAEs = (), reset_saes_end: bool = True, use_error_term: bool | None = None
    ) -> Iterator[HookedSAETransformer]:
        """Attach dictionaries for the length of a `with` block; then those that they took the place of are back."""
        before = {hook: (one, error_term) for hook, (one, error_term, _) in self._attached().items()}
        try:
            for one in [saes] if isinstance(saes, Dictionary) else saes:
                self.add_sae(one, use_error_term)
            yield self
        finally:
            if reset_saes_end:
                self.reset_saes()
                for one, error_term in before.values():
                    self.add_sae(one, error_term)

    def run_with_saes(
        self,
        *args: Any,
        saes: SAEs = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        **options: Any,
    ) -> Any:
        """A pass with dictionaries attached."""
        with self.saes(saes, reset_saes_end, use_error_term):
            return self(*args, **options)

    def run_with_cache_with_saes(
        self,
        *args: Any,
        saes: SAEs = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        return_cache_object: bool = True,
        **options: Any,
    ) -> tuple[Any, Any]:
        """A pass with dictionaries attached, and its activations; those of dictionaries under SAELens' names too."""
        with self.saes(saes, reset_saes_end, use_error_term):
            output, cache = self.run_with_cache(*args, return_cache_object=False, **options)
            hooks = [one.hooks_out[0] for one in self.acts_to_saes.values()]
        more = {
            f"{hook}.{theirs}": cache[name]
            for hook in hooks
            for ours, theirs in THEIRS.items()
            if (name := f"{hook}.{NAME}.hook_{ours}") in cache
        }
        found = {**cache, **more}
        return output, ActivationCache(found, self) if return_cache_object else found

    def run_with_hooks_with_saes(
        self,
        *args: Any,
        saes: SAEs = (),
        reset_saes_end: bool = True,
        use_error_term: bool | None = None,
        **options: Any,
    ) -> Any:
        """`run_with_hooks` with dictionaries attached."""
        with self.saes(saes, reset_saes_end, use_error_term):
            return self.run_with_hooks(*args, **options)
