"""Every edge of a model without grouped heads, and what one alone does, by plain interventions."""

import re
from collections.abc import Callable, Iterator

from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, Metric, Run, Site, at, evaluate
from interp_hooks.interventions.runs import Source

Edge = tuple[str, str]


def all_edges(model: HookedTransformer) -> Iterator[Edge]:
    """(writer, reader) for every reader and every writer before it."""
    writers = ["input"]
    for layer in range(model.cfg.n_layers):
        heads = [f"a{layer}.h{head}" for head in range(model.cfg.n_heads)]
        yield from ((writer, f"{head}<{what}>") for writer in writers for head in heads for what in "qkv")
        writers += heads
        if not model.cfg.attn_only:
            yield from ((writer, f"m{layer}") for writer in writers)
            writers.append(f"m{layer}")
    yield from ((writer, "logits") for writer in writers)


def writer_site(name: str) -> Site:
    if name == "input":
        return at("resid_pre", 0)
    kind, layer, head = re.fullmatch(r"([am])(\d+)(?:\.h(\d+))?", name).groups()  # pyright: ignore
    return at("mlp_out", int(layer)) if kind == "m" else at("z", int(layer), head=int(head))


def reader_site(model: HookedTransformer, name: str) -> Site:
    if name == "logits":
        return at("resid_post", model.cfg.n_layers - 1)
    kind, layer, head, what = re.fullmatch(r"([am])(\d+)(?:\.h(\d+)<([qkv])>)?", name).groups()  # pyright: ignore
    return at("mlp_in", int(layer)) if kind == "m" else at(f"{what}_input", int(layer), head=int(head))


def carries(model: HookedTransformer, edge: Edge, source: Source) -> Intervention:
    """Along this edge goes what its writer writes in `source`."""
    return Intervention(writer_site(edge[0]), source, into=reader_site(model, edge[1]))


def those_that_matter(
    model: HookedTransformer, tokens: Tensor, source: Source, metric: Metric | Callable[[Tensor], Tensor]
) -> set[Edge]:
    """The edges that change a score by themselves; of the others none may change one beyond rounding."""
    edges = list(all_edges(model))
    before, *after = evaluate(
        model, [Run(tokens), *(Run(tokens, [carries(model, edge, source)]) for edge in edges)], metric
    )
    effects = {edge: float((scores - before).abs().max()) for edge, scores in zip(edges, after, strict=True)}
    matter = {edge for edge, effect in effects.items() if effect > 1e-8}
    assert all(effect < 1e-11 for edge, effect in effects.items() if edge not in matter)
    return matter
