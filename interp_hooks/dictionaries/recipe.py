"""What decides a dictionary in training, beside the model and the texts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from interp_hooks.dictionaries.base import full_name
from interp_hooks.errors import BadInput

Kind = Literal["batchtopk", "topk", "jumprelu", "relu", "gated"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An SAE of `hook`, a transcoder from `hook` to `hook_out`, a crosscoder of `sites`, or a cross-layer transcoder,
    with `n_features` for each of its `sites`, from these to `sites_out`; and how it is trained.

    `k` is the number of features that are active at a token: exactly ("topk"), on average ("batchtopk"), or as a target
    of the penalty ("jumprelu"); of a cross-layer transcoder, in each layer. ReLU and gated dictionaries have a penalty
    on the sum of features instead, of weight `sparsity`, which is that of the target for "jumprelu". `prefixes` are the
    widths at which a Matryoshka dictionary should do on its own (Bussmann et al. 2025, arXiv 2503.17547). `skip` gives
    a transcoder a linear map past its features. `aux` weighs the loss that revives features which were not active for
    `dead_after` tokens (None: a tenth of all). The learning rate is 2e-4 / sqrt(n_features / 2^14) by default (Gao et
    al. 2024, arXiv 2406.04093).

    Raises:
        BadInput: numbers out of range, or what does not go together.

    >>> from interp_hooks.dictionaries import Recipe
    >>> Recipe(hook="resid_post1", n_features=1024).rate()
    0.0008
    """

    n_features: int
    hook: str = ""
    hook_out: str | None = None
    sites: tuple[str, ...] = ()
    sites_out: tuple[str, ...] = ()
    head: int | None = None
    kind: Kind = "batchtopk"
    k: int = 32
    sparsity: float = 1.0
    prefixes: tuple[int, ...] = ()
    skip: bool = False
    aux: float = 1 / 32
    dead_after: int | None = None
    learning_rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if bool(self.hook) == bool(self.sites) or (self.sites and (self.hook_out or self.head is not None)):
            raise BadInput("a recipe has a hook= (and maybe hook_out= or head=), or the sites= of a crosscoder")
        if self.sites_out and len(self.sites_out) != len(self.sites):
            raise BadInput(f"there must be as many sites as sites_out, got {self.sites} and {self.sites_out}")
        if self.is_cross_layer and self.kind == "gated":
            raise BadInput("a cross-layer transcoder is not trained with gates; choose another kind")
        if self.kind not in get_args(Kind):
            raise BadInput(f"kind must be one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if self.kind not in ("relu", "gated") and not 1 <= self.k <= self.n_features:
            raise BadInput(f"k must be 1..{self.n_features}, the number of features, got {self.k}")
        if not all(0 < n < self.n_features for n in self.prefixes) or list(self.prefixes) != sorted({*self.prefixes}):
            raise BadInput(f"prefixes must grow, and lie below {self.n_features} features, got {self.prefixes}")
        if self.skip and not self.predicts:
            raise BadInput("only a transcoder has a skip: give hook_out= too, or sites_out=")
        if self.head is not None and self.hook_out is not None:
            raise BadInput("a transcoder reads whole activations, no single head=")
        for name in ("sparsity", "aux"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInput(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.learning_rate is not None and not 0 < self.learning_rate < float("inf"):
            raise BadInput(f"learning_rate must be above 0, got {self.learning_rate}")
        if self.dead_after is not None and self.dead_after < 1:
            raise BadInput(f"dead_after must be at least 1 token, got {self.dead_after}")

    @property
    def is_sae(self) -> bool:
        """Whether it reconstructs one activation, and so subtracts its decoder's bias before it encodes."""
        return self.hook_out is None and not self.sites

    @property
    def is_cross_layer(self) -> bool:
        """Whether it has features in several layers, which write to later ones too."""
        return bool(self.sites_out)

    @property
    def predicts(self) -> bool:
        """Whether it predicts other activations than those it reads."""
        return self.hook_out is not None or self.is_cross_layer

    def named(self) -> Recipe:
        """The same with full names of hooks."""
        return replace(
            self,
            hook=full_name(self.hook) if self.hook else "",
            hook_out=None if self.hook_out is None else full_name(self.hook_out),
            sites=tuple(map(full_name, self.sites)),
            sites_out=tuple(map(full_name, self.sites_out)),
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """The hooks that are read."""
        return self.sites or (self.hook,)

    @property
    def writes(self) -> tuple[str, ...]:
        """The hooks that are reconstructed."""
        return self.sites_out or (self.reads if self.hook_out is None else (self.hook_out,))

    def rate(self) -> float:
        """The learning rate at its height."""
        return 2e-4 / (self.n_features / 2**14) ** 0.5 if self.learning_rate is None else self.learning_rate
