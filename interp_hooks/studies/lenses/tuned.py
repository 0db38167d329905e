"""The tuned lens (Belrose et al. 2023, arxiv.org/abs/2303.08112): affine maps, trained on KL(model || lens).

    h -> h + A h + b        A and b begin at 0, so that training begins at the logit lens, and weight decay leads there

The model's weights stay as they are. A batch is a pass of its own, without gradient, that shows the streams of all
layers; each layer then is a small problem for itself. So gradients are clipped for each layer, where the authors' code
clips those of all layers together: a lens of some layers is the same part of a lens of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from interp_hooks.corpus.packing import Excluded, Packer, Rows
from interp_hooks.corpus.passes import counted_values
from interp_hooks.corpus.reading import Corpus
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, checked
from interp_hooks.hooks.modes import with_constant_weights
from interp_hooks.model.folder_lock import LOCK, locked
from interp_hooks.model.identity import Identity
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.stream import Stream
from interp_hooks.model.tensor_files import on_disk, read_with_digest, remove_partial, write_with_digest
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.lenses.base import Lens, stream_is_centred
from interp_hooks.studies.lenses.reading import CHUNK, log_probs_of

Optimizer = Literal["sgd", "adam"]
FIT = "fit.safetensors"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a tuned lens is trained: what decides its numbers, beside the model and the texts."""

    layers: tuple[int, ...]
    steps: int
    tokens_per_step: int
    optimizer: Optimizer
    learning_rate: float
    momentum: float
    weight_decay: float
    clip: float
    length: int
    exclude: tuple[Excluded, ...]
    column: str
    tokens_at_once: int

    def rate(self, step: int) -> float:
        """The learning rate of a step: it falls to 0 in a line; with Adam it rises to its full height before."""
        warm = min(1000, self.steps // 5) if self.optimizer == "adam" else 0
        share = (step + 1) / warm if step < warm else (self.steps - step) / (self.steps - warm)
        return self.learning_rate * share

    def optimizer_of(self, weights: Sequence[Tensor]) -> torch.optim.Optimizer:
        """Nesterov's momentum, or Adam."""
        if self.optimizer == "adam":
            return torch.optim.Adam(weights, lr=1.0, weight_decay=self.weight_decay)
        nesterov = self.momentum > 0
        return torch.optim.SGD(
            weights, lr=1.0, momentum=self.momentum, nesterov=nesterov, weight_decay=self.weight_decay
        )


@checked
def fit_tuned_lens(
    model: HookedTransformer,
    corpus: Corpus,
    *,
    layers: Sequence[int] | None = None,
    steps: int = 250,
    tokens_per_step: Positive = 2**14,
    optimizer: Optimizer = "sgd",
    learning_rate: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 1e-3,
    clip: float = 1.0,
    length: Count | None = None,
    exclude: Sequence[Excluded] = ("bos",),
    column: str = "text",
    tokens_at_once: Count = 8192,
    save_to: str | Path | None = None,
    save_every: Positive = 25,
    progress: bool = True,
) -> Lens:
    """Train a tuned lens: of each layer an affine map, after which the model says what it says in the end.

    Every step reads at least `tokens_per_step` tokens of the corpus, which is read again when it ends (the paper: 250
    steps of 2^18). Documents longer than `length` (default: the context) are split; what `exclude` names is left out.
    The learning rate is 1 - `momentum` for "sgd", 1e-3 for "adam" by default, and falls to 0 in a line. `facts` of the
    lens say the KL in nats of every layer over the last step, before its update. No step is the logit lens.

    With `save_to` the fit is kept in that folder after every `save_every` steps, and goes on there if it was killed;
    the lens is then the same to the bit where processor and number of threads are.

    Raises:
        BadInput: a layer that there is not, other numbers out of range, a corpus that ends and cannot be read again, or
            a folder of another fit.
        FolderInUse: another process fits in that folder.

    >>> from interp_hooks.studies import fit_tuned_lens
    >>> lens = fit_tuned_lens(model, clean, layers=[2], steps=3, tokens_per_step=32, progress=False)
    >>> lens(model, clean).labels
    ['2_pre', 'final_post']
    """
    n_layers = model.cfg.n_layers
    chosen = tuple(range(n_layers) if layers is None else sorted(set(layers)))
    if not chosen or not all(0 <= layer < n_layers for layer in chosen):
        raise BadInput(f"layers must be some of 0..{n_layers - 1}, got {layers}")
    if not 0 <= momentum < 1:
        raise BadInput(f"momentum must be at least 0 and less than 1, got {momentum}")
    if learning_rate is None:
        learning_rate = 1 - momentum if optimizer == "sgd" else 1e-3
    for name, value in (("steps", steps), ("weight_decay", weight_decay)):
        if value < 0:
            raise BadInput(f"{name} must be at least 0, got {value}")
    for name, value in (("learning_rate", learning_rate), ("clip", clip)):
        if not value > 0:
            raise BadInput(f"{name} must be above 0, got {value}")
    recipe = Recipe(
        layers=chosen,
        steps=steps,
        tokens_per_step=tokens_per_step,
        optimizer=optimizer,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        clip=clip,
        length=model.cfg.n_ctx if length is None else length,
        exclude=tuple(exclude),
        column=column,
        tokens_at_once=tokens_at_once,
    )
    fit = _Fit(model, recipe)
    if save_to is None:
        fit.run(corpus, None, save_every, progress)
        return fit.lens
    folder = Path(save_to).absolute()
    with on_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, folder):
        remove_partial(folder)
        fit.go_on(folder / FIT)
        fit.run(corpus, folder / FIT, save_every, progress)
    return fit.lens


class _Fit:
    """A tuned lens in training: its weights, what the optimizer keeps of them, and how far it is."""

    def __init__(self, model: HookedTransformer, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        d_model, dtype = model.cfg.d_model, torch.promote_types(model.dtype, torch.float32)
        stream = Stream(model)
        self.hooks = {layer: stream.entering(layer) for layer in recipe.layers}
        self.final = stream.entering(model.cfg.n_layers)
        zeros = {"dtype": dtype, "device": model.unembed.W_U.device, "requires_grad": True}
        self.maps = {layer: torch.zeros(d_model, d_model, **zeros) for layer in recipe.layers}
        self.biases = {layer: torch.zeros(d_model, **zeros) for layer in recipe.layers}
        self.optimizer = recipe.optimizer_of([*self.maps.values(), *self.biases.values()])
        self.packer = Packer(
            model=model,
            length=recipe.length,
            longer="split",
            exclude=recipe.exclude,
            tokens_at_once=min(recipe.tokens_at_once, recipe.tokens_per_step),
        )
        self.step, self.passes = 0, 0
        self.kl: dict[int, float] = {}

    @property
    def lens(self) -> Lens:
        """The lens as it is now."""
        eye = torch.eye(self.model.cfg.d_model).to(next(iter(self.maps.values())))
        facts = {"model": self.model.cfg.model_name, "steps": self.step}
        return Lens(
            maps={layer: eye + one.detach() for layer, one in self.maps.items()},
            biases={layer: one.detach().clone() for layer, one in self.biases.items()},
            kind="tuned",
            of_centred=stream_is_centred(self.model),
            facts={**facts, "kl_nats": {str(layer): kl for layer, kl in self.kl.items()}},
        )

    def run(self, corpus: Corpus, path: Path | None, save_every: int, progress: bool) -> None:
        """Train until all steps are made, and keep the fit at `path` now and then."""
        if self.step == self.recipe.steps:
            return
        rows = islice(self.packer.endless(corpus, self.recipe.column, self._ended), self.passes, None)
        with progress_bar(total=self.recipe.steps, initial=self.step, progress=progress, unit="step") as bar:
            while self.step < self.recipe.steps:
                self._train(rows)
                bar.update(1)
                if path is not None and (self.step % save_every == 0 or self.step == self.recipe.steps):
                    self.save(path)

    def _ended(self) -> str:
        return (
            f"the corpus has no more tokens after {self.step} of {self.recipe.steps} steps: give a list or a file, "
            "which can be read again, more texts, or fewer steps"
        )

    def _train(self, rows: Iterator[Rows]) -> None:
        """One step: gradients over some rows, clipped for each layer, and an update."""
        tokens, sums = 0, dict.fromkeys(self.recipe.layers, 0.0)
        self.optimizer.zero_grad()
        while tokens < self.recipe.tokens_per_step:
            streams = self._streams(next(rows))
            self.passes += 1
            final = streams.pop(self.final)
            tokens += len(final)
            for layer, kl in self._backwards(streams, final).items():
                sums[layer] += kl
        for layer in self.recipe.layers:
            of_layer = [self.maps[layer], self.biases[layer]]
            for one in of_layer:
                assert one.grad is not None
                one.grad /= tokens
            torch.nn.utils.clip_grad_norm_(of_layer, self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate(self.step)
        self.optimizer.step()
        self.kl = {layer: kl / tokens for layer, kl in sums.items()}
        self.step += 1

    def _streams(self, rows: Rows) -> dict[str, Float[Tensor, "token d_model"]]:
        """The stream at every hook that is read, at the tokens that count."""
        hooks, device = (*self.hooks.values(), self.final), self.model.unembed.W_U.device
        found = counted_values(self.model, rows, hooks, stop_at_layer=self.model.cfg.n_layers)
        return {hook: value.to(device) for hook, value in found.items()}

    @with_constant_weights
    def _backwards(self, streams: Mapping[str, Tensor], final: Float[Tensor, "token d_model"]) -> dict[int, float]:
        """Add to the gradients of all layers those of KL(model || lens), summed over tokens; and these sums."""
        sums = dict.fromkeys(self.recipe.layers, 0.0)
        size = max(1, CHUNK // self.model.cfg.d_vocab_out)
        for start in range(0, len(final), size):
            part = slice(start, start + size)
            said = self._said(final[part]).detach()
            for layer, hook in self.hooks.items():
                stream = streams[hook][part].to(self.maps[layer])
                mapped = stream + stream @ self.maps[layer].T + self.biases[layer]
                kl = (said.exp() * (said - self._said(mapped.to(final.dtype)))).sum()
                kl.backward()
                sums[layer] += float(kl.detach())
        return sums

    def _said(self, stream: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_vocab"]:
        return log_probs_of(self.model, stream[None])[0]

    # ------------------------------------------------------------------------------------------------------ on disk

    def save(self, path: Path) -> None:
        """Keep the fit as it is."""
        tensors: dict[str, Tensor] = {}
        for name, weights in self._weights.items():
            tensors[name] = weights.detach()
            for what, value in self.optimizer.state[weights].items():
                tensors[f"{name}/{what}"] = value
        about = {"recipe": asdict(self.recipe), "model": asdict(Identity.of(self.model))}
        about |= {"step": self.step, "passes": self.passes, "kl": list(self.kl.items())}
        write_with_digest(path, {name: one.cpu() for name, one in tensors.items()}, {"fit": json.dumps(about)})

    def go_on(self, path: Path) -> None:
        """Take up a fit that was kept, if there is one.

        Raises:
            BadInput: it is one of another model, or by another recipe.
        """
        if not path.exists():
            return
        tensors = read_with_digest(path)
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["fit"])
        asked = json.loads(json.dumps(asdict(self.recipe)))
        if other := [name for name in asked if about["recipe"].get(name) != asked[name]]:
            raise BadInput(f"{path.parent} holds a fit with another {', '.join(other)}; fit in another folder")
        if (unlike := Identity(**about["model"]).unlike(self.model, "the fit")) is not None:
            raise BadInput(f"{path.parent}: {unlike}; fit in another folder")
        for name, weights in self._weights.items():
            weights.data.copy_(tensors.pop(name))
        for key, value in tensors.items():
            name, _, what = key.partition("/")
            weights = self._weights[name]
            self.optimizer.state[weights][what] = value if what == "step" else value.to(weights)
        self.step, self.passes, self.kl = about["step"], about["passes"], dict(about["kl"])

    @property
    def _weights(self) -> dict[str, Tensor]:
        """All that is trained, by name."""
        kinds = {"map": self.maps, "bias": self.biases}
        return {f"{kind}.{layer}": one for kind, of_layers in kinds.items() for layer, one in of_layers.items()}
