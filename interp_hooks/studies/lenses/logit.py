"""The logit lens (nostalgebraist 2020): the stream of every layer through the final norm and the unembedding."""

from __future__ import annotations

from torch import Tensor

from interp_hooks.experiments.results.record import experiment
from interp_hooks.interventions.readout import LAST, MetricLike
from interp_hooks.interventions.runs import PromptsLike
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.studies.lenses.base import pos_read
from interp_hooks.studies.lenses.reading import LensResult, read_points, run_to_read


@experiment
def logit_lens(
    model: HookedTransformer,
    prompts: PromptsLike,
    metric: MetricLike | None = None,
    *,
    pos: int | Tensor | None = LAST,
    incl_mid: bool = False,
    attention_mask: Tensor | None = None,
) -> LensResult:
    """What the model would predict at each layer if it stopped there, at one position of each prompt.

    Points are "0_pre" (the embeddings), ..., "final_post" (the model's own prediction); `incl_mid` adds the points
    between attention and MLP. Values are those of `metric` at every point (of a task, the task's own), or without one
    KL(model || point) in nats; log-probs, ranks and likeliest tokens are asked of the result. With `pos=None` every
    position is read. `attention_mask` [batch, pos] is 1 for the real tokens of prompts that are ids. Of a `Run` the
    interventions are made, and the lens reads the stream that they leave.

    Raises:
        BadInput: prompts or positions that do not fit, or an intervention after the last block.

    >>> lens = logit_lens(model, clean)
    >>> lens.table(pairs.answer)["point"].tolist()
    ['0_pre', '1_pre', '2_pre', 'final_post']
    """
    layers = range(model.cfg.n_layers)
    run = run_to_read(model, prompts, attention_mask)
    return read_points(model, run, dict.fromkeys(layers), {}, metric, pos_read(model, metric, pos), incl_mid)
