"""What happens to the model's predictions where a feature is ablated: on its top contexts, and on random ones.

The dictionary is spliced in with its error term, so that the model predicts what it predicts by itself, and the
feature is set to 0 at all tokens of a context but BOS: what it writes, feature times row of the decoder, is taken out.
BOS is left as it is, as training and scans leave it out: the stream there may be a hundred times as large as elsewhere,
so that half of all features would be active, and a model without them lacks the place where attention rests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from interp_hooks.corpus.packing import bos_of
from interp_hooks.corpus.scanning import Scan
from interp_hooks.corpus.units import Units
from interp_hooks.dictionaries.base import Dictionary
from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import Count, checked
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.interventions.sites import at
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.features.units import by_layer, feature_units
from interp_hooks.studies.neurons.causes import Ablation, AblationEffects, effects_on
from interp_hooks.studies.neurons.contexts import Contexts, Found, random_contexts, top_contexts


@no_gradients
@checked
def feature_effects(
    model: HookedTransformer,
    dictionary: Dictionary,
    scan: Scan,
    features: Sequence[int],
    *,
    units: Units | None = None,
    layer: int | None = None,
    k: Count = 8,
    n_random: Count = 32,
    before: Count | None = 64,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> AblationEffects:
    """What each of some features does to predictions where it is active, and elsewhere: it is set to 0, but at BOS.

    `scan` needs `TopK(units)`, with `units` of `feature_units` (default: those of this dictionary alone). `k` documents
    in which a feature is largest, of those in which it is active at all, and `n_random` tokens of the corpus, drawn by
    `generator` (default: seed 0), are read with `before` tokens before them. Of a cross-layer transcoder `layer` says
    whose features; without one, what it writes to later layers is gone too.

    Raises:
        BadInput: no features, features that there are not, a scan that did not measure them, no `layer` where there are
            several, or a crosscoder: its features need later sites too, so that it cannot stand in a model.

    >>> from interp_hooks import dictionaries
    >>> from interp_hooks.corpus import TopK, scan
    >>> from interp_hooks.studies import feature_effects, feature_units
    >>> sae = dictionaries.load("ioi-tiny/sae")
    >>> found = scan(model, clean, {"top": TopK(feature_units(model, sae), k=3)}, progress=False)
    >>> feature_effects(model, sae, found, [3, 17], n_random=4).table()["contexts"].tolist()
    ['top', 'random', 'top', 'random']
    """
    if not features:
        raise BadInput("features must be numbers of features, got none")
    by = by_layer(model, dictionary)
    if layer is None and len(by) == 1:
        (layer,) = by
    if layer not in by:
        raise BadInput(f"layer must be one of those with features, {', '.join(map(str, by))}, got {layer}")
    if (hook := by[layer].hook_features) is None:
        dictionary.parts()  # which says why it cannot stand in a model
    found = Found(scan, (units or feature_units(model, dictionary)).name)
    options: dict[str, Any] = dict(k=k, before=before)
    tops = [_active(top_contexts(model, found, layer, feature, **options)).followed() for feature in features]
    drawn = random_contexts(model, scan, n_random, generator or torch.Generator().manual_seed(0), before)
    assert hook is not None
    with by[layer].dictionary.splice_into(model, name="dictionary", error_term=True):
        ablations = [Ablation(at(hook, feature=feature), 0.0, spared=bos_of(model)) for feature in features]
        listed = [(layer, feature) for feature in features]
        return effects_on(model, listed, ablations, tops, drawn, called="feature", progress=progress)


def _active(contexts: Contexts) -> Contexts:
    """Those in which the unit is above 0."""
    return contexts.chosen((contexts.values > 0).nonzero()[:, 0].tolist())
