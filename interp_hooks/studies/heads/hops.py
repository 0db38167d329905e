"""Two hops: from which token, by way of which token, one head reaches another.

    token j' --sender's attention--> token p --stream--> the reader's query, key or value at p

What the sender writes at p is the sum over j' of A[p, j'] v[j'] W_O, and what the reader makes of it is linear, so that
what comes to the reader through the sender is exactly a sum over pairs of tokens. With values it is the product of the
two patterns that virtual heads have (Elhage et al. 2021, transformer-circuits.pub/2021/framework).
"""

from __future__ import annotations

from typing import Any

from interp_hooks.errors import BadInput
from interp_hooks.experiments.results.result import Result
from interp_hooks.hooks.slices import Slice
from interp_hooks.interventions.runs import PromptsLike
from interp_hooks.model.cache.parts import frozen
from interp_hooks.model.transformer import HookedTransformer
from interp_hooks.model.weights import Composition
from interp_hooks.studies.heads.composing import Reached
from interp_hooks.studies.heads.inputs import precise
from interp_hooks.studies.heads.scores import Place, at_places


@at_places
def token_paths(
    model: HookedTransformer,
    prompts: PromptsLike,
    sender: tuple[int, int],
    reader: tuple[int, int],
    via: Composition,
    *,
    query: Place | None = None,
    key: Place | None = None,
    against: Place = "visible",
    answer: Any = None,
    wrong: Any = None,
) -> Result:
    """What reaches one head through another, by the tokens from which and by way of which it comes.

    Sender and reader are (layer, head). The result's axes are middle, where the sender writes and the reader reads, and
    source, from where the sender takes it, both positions; their sum is the sender's part in `composition_parts`, of
    which the other arguments are. For queries the middle is the query, for keys and values a key. What a norm after
    attention adds beside the heads (its bias and that of attention) is no part of a head.

    Raises:
        BadInput: there is no such head, or the sender is in no earlier layer; or as `composition_parts`.

    >>> paths = token_paths(model, clean, (0, 1), (1, 2), "K", query=-1, key=1)
    >>> [*paths.axes], len(paths.axes["source"]) == model.to_tokens(clean).shape[1]
    (['middle', 'source'], True)
    """
    (earlier, of), (layer, head) = sender, reader
    for place, number in (sender, reader):
        if not (0 <= place < model.cfg.n_layers and 0 <= number < model.cfg.n_heads):
            raise BadInput(f"there is no head {number} in layer {place}")
    if earlier >= layer:
        raise BadInput(f"the sender must be in an earlier layer than the reader, got layers {earlier} and {layer}")
    reached = Reached.of(model, prompts, via, query=query, key=key, against=against, answer=answer, wrong=wrong)
    read, block = reached.read, model.blocks[earlier]
    stream, made, onto = reached.gradient(layer, head)
    reads = made.pulled_back(stream, onto) * block.residual_scale
    for norm in frozen(read.cache, block.ln1_post, f"blocks.{earlier}.ln1_post", Slice()):
        reads = norm.pulled_back(reads) / norm.scale
    attn: Any = block.attn
    real = read.run.real.to(stream.device)
    values = read.input(earlier, of, "V").whole(read.cache[f"blocks.{earlier}.hook_resid_pre"], real)
    through = reads @ precise(attn.W_O[of]).T  # batch middle d_head
    pattern = read.cache[f"blocks.{earlier}.attn.hook_pattern"][:, of].to(through)
    table = pattern * (through @ values.to(through).mT)  # batch middle source
    positions = range(table.shape[1])
    return Result(
        metric=reached.metric, axes={"middle": positions, "source": positions}, values=table.permute(1, 2, 0).cpu()
    )
