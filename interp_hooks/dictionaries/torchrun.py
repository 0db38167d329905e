"""Training by several processes, under torchrun: every step's tokens are shared out, and all take the same step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp_hooks.corpus.drivers import process_group
from interp_hooks.corpus.reading import Corpus
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.dictionaries.ranks import Ranks
from interp_hooks.dictionaries.recipe import Recipe
from interp_hooks.dictionaries.training import train_dictionaries
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.model.transformer import HookedTransformer


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
