"""Training dictionaries on a model's activations: several at once from the same passes, and so that it can go on.

    recipes = {"sae": Recipe(hook="resid_post1", n_features=512, k=16), ...}
    trained = train_dictionaries(model, texts, recipes, steps=500, save_to="fit")

A step takes the same tokens for all of them, from a buffer that is shuffled. Weights are in float32 at least, whatever
the activations are in. A fit that was killed goes on in its folder, to the same bits where processor and number of
threads are; the folder holds the buffer too. Under torchrun every step's tokens are shared out, and all processes take
the same step (`train_by_rank`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor
from tqdm import tqdm

from interp_hooks.corpus.drivers import process_group
from interp_hooks.corpus.packing import Excluded, Packer
from interp_hooks.corpus.reading import Corpus
from interp_hooks.dictionaries.base import Dictionary, width_of
from interp_hooks.dictionaries.buffer import ActivationBuffer, TensorBuffer
from interp_hooks.dictionaries.coder import RATE
from interp_hooks.dictionaries.evaluation import dictionary_metrics
from interp_hooks.dictionaries.ranks import Ranks
from interp_hooks.dictionaries.recipe import Recipe
from interp_hooks.dictionaries.trainable import Trainable
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, Positive, Seed, checked, refuse_outside, told_shape
from interp_hooks.hooks.modes import with_gradients
from interp_hooks.model.folder_lock import LOCK, locked
from interp_hooks.model.identity import Identity
from interp_hooks.model.progress import progress_bar
from interp_hooks.model.tensor_files import on_disk, read_with_digest, remove_partial, write_with_digest
from interp_hooks.model.transformer import HookedTransformer

FIT = "fit.safetensors"
LOGS = 50  # times that a training notes how it is
CLIP = 1.0  # norm of the gradient
WARM, COOL = 0.05, 0.2  # shares of the steps in which the learning rate rises and falls
FOLLOW = 10  # a running mean of thresholds is that of a tenth of the steps at most, so that early ones are forgotten


@checked
def train_dictionaries(
    model: HookedTransformer,
    corpus: Corpus,
    recipes: Recipe | Mapping[str, Recipe],
    *,
    steps: Positive,
    tokens_per_step: Count = 2048,
    buffer: Count | None = None,
    length: Count | None = None,
    exclude: Sequence[Excluded] = ("bos",),
    column: str = "text",
    tokens_at_once: Count = 8192,
    seed: Seed = 0,
    evaluate_on: Corpus | None = None,
    save_to: str | Path | None = None,
    save_every: Positive = 100,
    ranks: Ranks | None = None,
    progress: bool = True,
) -> dict[str, Dictionary]:
    """Train dictionaries, each by its recipe, on activations of a corpus, which is read again when it ends.

    Every step takes `tokens_per_step` tokens out of a `buffer` of so many (default: 32 steps' worth), shuffled with
    `seed`. Documents longer than `length` (default: the context) are split, and tokens that `exclude` names left out.
    Adam's learning rate rises over the first twentieth of the steps, and falls to 0 over the last fifth. `facts` of a
    dictionary say its recipe, and in `history` how it did: the step, L0, explained variance (of a batch) and the share
    of dead features. With `evaluate_on` they also have the `metrics` of `dictionary_metrics` on those texts.

    With `save_to` the fit is kept in that folder after every `save_every` steps, and goes on there if it was killed.
    `ranks` are processes that train together (see `train_by_rank`): each takes its share of the tokens of a step.

    Raises:
        BadInput: recipes that do not fit the model, numbers out of range, a corpus without tokens that count, or a
            folder of another fit.
        UnknownHook: there is no such hook.
        FolderInUse: another process trains in that folder.

    >>> from interp_hooks.dictionaries import Recipe, train_dictionaries
    >>> recipe = Recipe(hook="resid_post1", n_features=256, k=8)
    >>> trained = train_dictionaries(model, clean, recipe, steps=3, tokens_per_step=64, progress=False)
    >>> trained["dictionary"]
    SAE(blocks.1.hook_resid_post, d_in=128, n_features=256)
    """
    named = {"dictionary": recipes} if isinstance(recipes, Recipe) else dict(recipes)
    named = {name: recipe.named() for name, recipe in named.items()}
    if not named or any(not name.isidentifier() for name in named):
        raise BadInput(f"recipes must be some, by names such as 'sae', got {list(named) or 'none'}")
    for recipe in named.values():
        for hook in (*recipe.reads, *recipe.writes):
            width_of(model.points(hook)[0], recipe.head)
    together = ranks or Ranks()
    if tokens_per_step < 2 * together.count or tokens_per_step % together.count:
        several = "" if together.count == 1 else f", and a multiple of {together.count}, the number of ranks"
        raise BadInput(f"tokens_per_step must be at least {2 * together.count}{several}, got {tokens_per_step}")
    size = 32 * tokens_per_step if buffer is None else buffer
    if size < 2 * tokens_per_step:
        raise BadInput(f"buffer must hold 2 steps' tokens at least, {2 * tokens_per_step}, got {size}")
    length = model.cfg.n_ctx if length is None else length
    packer = Packer(model=model, length=length, longer="split", exclude=tuple(exclude), tokens_at_once=tokens_at_once)
    generator = torch.Generator().manual_seed(seed)
    hooks = [(hook, one.head) for one in named.values() for hook in (*one.reads, *one.writes)]
    part, share = (together.rank, together.count), size // together.count
    stream = ActivationBuffer(model, corpus, packer, hooks, column=column, tokens=share, generator=generator, part=part)
    options = {"steps": steps, "tokens_per_step": tokens_per_step, "buffer": size, "length": length, "seed": seed}
    options |= {"exclude": list(exclude), "column": column, "tokens_at_once": tokens_at_once, "ranks": together.count}
    fit, progress = _Fit(model, named, stream, options, together), progress and together.rank == 0
    if save_to is None:
        fit.run(None, save_every, progress)
    else:
        folder = Path(save_to).absolute()
        with on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK, folder) if together.rank == 0 else nullcontext():
            if together.rank == 0:
                remove_partial(folder)
            together.barrier()
            fit.go_on(folder / FIT)
            fit.run(folder / FIT, save_every, progress)
    trained = fit.finished()
    if evaluate_on is not None:
        for name, one in trained.items():
            found = dictionary_metrics(model, one, evaluate_on, length=length, exclude=exclude, column=column)
            told = dict(zip(found.axes["measure"], found.values[0, :, 0].tolist(), strict=True))
            trained[name] = replace(one, facts={**one.facts, "metrics": told})
    return trained


@checked
def train_on_activations(
    x: Float[Tensor, "token *site d_in"],
    recipe: Recipe,
    *,
    y: Float[Tensor, "token *site d_out"] | None = None,
    steps: Positive,
    tokens_per_step: Count = 2048,
    seed: Seed = 0,
    progress: bool = True,
) -> Dictionary:
    """Train a dictionary on activations that are there, wherever they come from: of a toy model, say.

    `y` is what a transcoder predicts of x; both have an axis of sites if the recipe has. They are passed through as
    often as it takes, in another order each time; the rest is as in `train_dictionaries`. The recipe's hooks are names
    only.

    Raises:
        BadInput: numbers out of range, x and y of other shapes than the recipe's, or too few activations.

    >>> from interp_hooks.dictionaries import Recipe, train_on_activations
    >>> recipe = Recipe(hook="activations", n_features=8, k=2)
    >>> train_on_activations(torch.randn(100, 5), recipe, steps=3, tokens_per_step=50, progress=False)
    SAE(hook_activations, d_in=5, n_features=8)
    """
    recipe = replace(recipe.named(), head=None)
    if recipe.predicts != (y is not None):
        expected = "[token, d_out], what is predicted of x" if recipe.predicts else "None: only transcoders predict"
        raise BadInput(f"y must be {expected}, got {None if y is None else told_shape(y)} for {recipe}")
    listed = [(recipe.reads, x)] if y is None else [(recipe.reads, x), (recipe.writes, y)]
    shapes = {(len(x), *([len(hooks)] if recipe.sites else []), one.shape[-1]) == one.shape for hooks, one in listed}
    if shapes != {True} or len({*recipe.reads}) < len(recipe.reads):
        raise BadInput(
            "expected x [token, d_in], and for a transcoder's recipe as many y [token, d_out], each with an axis of "
            f"different sites between if the recipe has them; got x {told_shape(x)} and "
            f"y {None if y is None else told_shape(y)} for {recipe}"
        )
    refuse_outside("tokens_per_step", tokens_per_step, 2, len(x), "the number of activations")
    values: dict[tuple[str, int | None], Tensor] = {}
    for hooks, one in listed:
        each = one.unbind(1) if recipe.sites else [one]
        values |= {(hook, None): part for hook, part in zip(hooks, each, strict=True)}
    stream = TensorBuffer(values, torch.Generator().manual_seed(seed))
    fit = _Fit(None, {"dictionary": recipe}, stream, {"steps": steps, "tokens_per_step": tokens_per_step, "seed": seed})
    fit.run(None, 1, progress)
    return fit.finished()["dictionary"]


class _Fit:
    """Dictionaries in training, how far they are, and the activations that they are given."""

    def __init__(
        self,
        model: HookedTransformer | None,
        recipes: Mapping[str, Recipe],
        stream: ActivationBuffer | TensorBuffer,
        options: Mapping[str, Any],
        ranks: Ranks = Ranks(),  # noqa: B008 (a value that cannot change)
    ) -> None:
        self.model, self.recipes, self.stream, self.options, self.ranks = model, recipes, stream, options, ranks
        self.step, self.steps, self.tokens = 0, int(options["steps"]), int(options["tokens_per_step"])
        self.parts: dict[str, Trainable] = {}
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self.history: dict[str, list[list[float]]] = {name: [] for name in recipes}

    def _begin(self) -> None:
        """Make the parameters, for which the first activations are needed."""
        self.stream.fill()
        for name, recipe in self.recipes.items():
            self._make(name, *self._sites(recipe, self.stream.left))

    def _make(self, name: str, x: Tensor, y: Tensor) -> None:
        part = Trainable(self.recipes[name], x, y, self.ranks)
        self.parts[name] = part
        self.optimizers[name] = torch.optim.Adam(part.parameters(), lr=self.recipes[name].rate())

    def _sites(self, recipe: Recipe, values: Mapping[tuple[str, int | None], Tensor]) -> tuple[Tensor, Tensor]:
        """What a dictionary reads and what it reconstructs, [token site d] each."""
        x, y = (
            torch.stack([values[hook, recipe.head] for hook in hooks], 1) for hooks in (recipe.reads, recipe.writes)
        )
        return x, y

    @with_gradients
    def run(self, path: Path | None, save_every: int, progress: bool) -> None:
        """Train until all steps are made, and keep the fit at `path` now and then."""
        if not self.parts:
            self._begin()
        with progress_bar(total=self.steps, initial=self.step, progress=progress, unit="step") as bar:
            while self.step < self.steps:
                self._train(bar)
                bar.update(1)
                if path is not None and (self.step % save_every == 0 or self.step == self.steps):
                    self.save(path)

    def _train(self, bar: tqdm[Any]) -> None:
        batch = self.stream.take(self.tokens // self.ranks.count)
        told: dict[str, float] = {}
        for name, part in self.parts.items():
            recipe, optimizer = self.recipes[name], self.optimizers[name]
            dead_after = recipe.dead_after or max(self.tokens, self.steps * self.tokens // 10)
            optimizer.zero_grad()
            loss, told = part.loss(*self._sites(recipe, batch), dead_after, max(RATE, FOLLOW / self.steps))
            if not bool(self.ranks.mean(loss.detach()).isfinite()):
                raise BadInput(f"the loss of {name!r} is not finite at step {self.step}; lower its learning rate")
            loss.backward()
            self.ranks.average_gradients(part.parameters())
            part.project()
            torch.nn.utils.clip_grad_norm_(part.parameters(), CLIP)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate() * self._share()
            optimizer.step()
            part.constrain()
            if self.step % max(1, self.steps // LOGS) == 0 or self.step == self.steps - 1:
                shared = self.ranks.mean(torch.tensor([*told.values()], dtype=torch.float64))
                self.history[name].append([self.step, *shared.tolist()])
        self.step += 1
        bar.set_postfix(l0=f"{told['l0']:.1f}", ev=f"{told['explained_variance']:.3f}", dead=f"{told['dead']:.1%}")

    def _share(self) -> float:
        """The learning rate of this step, as a share of its height."""
        rise, fall = max(1.0, WARM * self.steps), max(1.0, COOL * self.steps)
        return min(1.0, (self.step + 1) / rise, (self.steps - self.step) / fall)

    def finished(self) -> dict[str, Dictionary]:
        """The dictionaries, on the model's device."""
        found: dict[str, Dictionary] = {}
        for name, part in self.parts.items():
            recipe = {key: value for key, value in asdict(self.recipes[name]).items() if value not in (None, "", ())}
            facts = {"recipe": recipe, "options": dict(self.options)}
            facts |= {} if self.model is None else {"model_name": self.model.cfg.model_name}
            found[name] = part.finished(json.loads(json.dumps({**facts, "history": self.history[name]})))
        return found

    # ---------------------------------------------------------------------------------------------------- on disk

    def _asked(self) -> dict[str, Any]:
        return json.loads(json.dumps({"recipes": {n: asdict(r) for n, r in self.recipes.items()}, **self.options}))

    def save(self, path: Path) -> None:
        """Keep the fit as it is, with what is left in the buffers of all ranks."""
        left = [self.stream.left[hook].cpu() for hook in self.stream.hooks]
        buffers = self.ranks.gathered((self.stream.generator.get_state(), left, self.stream.passes))
        if self.ranks.rank > 0:
            self.ranks.barrier()
            return
        tensors = {f"generator/{rank}": state for rank, (state, _, _) in enumerate(buffers)}
        for rank, (_, values, _) in enumerate(buffers):
            tensors |= {f"buffer/{rank}/{place}": value for place, value in enumerate(values)}
        for name, part in self.parts.items():
            tensors |= {f"{name}/weights/{key}": value for key, value in part.state_dict().items()}
            state = self.optimizers[name].state
            for key, weight in part.named_parameters():
                tensors |= {f"{name}/adam/{key}/{what}": value for what, value in state[weight].items()}
        assert self.model is not None
        about = {"asked": self._asked(), "model": asdict(Identity.of(self.model)), "step": self.step}
        about |= {"passes": [passes for *_, passes in buffers], "history": self.history}
        write_with_digest(path, {key: value.cpu() for key, value in tensors.items()}, {"fit": json.dumps(about)})
        self.ranks.barrier()

    def go_on(self, path: Path) -> None:
        """Take up a fit that was kept, if there is one.

        Raises:
            BadInput: it is one of another model, by other recipes, or with other options.
        """
        if not path.exists():
            return
        assert self.model is not None
        tensors = read_with_digest(path)
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["fit"])
        if other := [name for name, value in self._asked().items() if about["asked"].get(name) != value]:
            raise BadInput(f"{path.parent} holds a fit with other {', '.join(other)}; train in another folder")
        if (unlike := Identity(**about["model"]).unlike(self.model, "the fit")) is not None:
            raise BadInput(f"{path.parent}: {unlike}; train in another folder")
        rank = self.ranks.rank
        self.stream.generator.set_state(tensors[f"generator/{rank}"])
        self.stream.left = {
            hook: tensors[f"buffer/{rank}/{place}"].to(self.model.device)
            for place, hook in enumerate(self.stream.hooks)
        }
        self.stream.passes, self.step, self.history = about["passes"][rank], about["step"], about["history"]
        for name, recipe in self.recipes.items():
            self._make(name, *self._sites(recipe, self.stream.left))
            part, state = self.parts[name], self.optimizers[name].state
            part.load_state_dict({key: tensors[f"{name}/weights/{key}"] for key in part.state_dict()})
            for key, weight in part.named_parameters():
                for what in ("step", "exp_avg", "exp_avg_sq"):
                    value = tensors[f"{name}/adam/{key}/{what}"]
                    state[weight][what] = value if what == "step" else value.to(weight)


@checked
def train_by_rank(
    model: HookedTransformer,
    corpus: Corpus,
    recipes: Recipe | Mapping[str, Recipe],
    *,
    steps: Count,
    **options: Any,
) -> dict[str, Dictionary]:
    """`train_dictionaries` under torchrun: every rank has a model of its own, and all the same dictionaries.

    `tokens_per_step` and `buffer` are those of all ranks together. Every rank reads its part of the corpus, gradients
    are averaged, and what else depends on the whole batch (the n * k largest of BatchTopK, L0, which features are dead)
    is that of all: a step is that of one process with the parts of the batch put together, but that BatchTopK keeps all
    features that tie for the last place, which one process draws from. `options` are those of
    `train_dictionaries`; every rank has to see the folder `save_to`, and as many ranks go on as began. Ranks talk in a
    process group, which is made (gloo) if there is none. History tells means over ranks.

    Raises:
        BadInput: the process was not started by torchrun; or what `train_dictionaries` raises.

    >>> train_by_rank(model, "texts.txt", Recipe(hook="resid_post1", n_features=4096), steps=1000)  # doctest: +SKIP
    """
    with process_group("train_by_rank runs under torchrun (RANK is not set); alone call train_dictionaries"):
        return train_dictionaries(model, corpus, recipes, steps=steps, ranks=Ranks.here(), **options)
