"""Every kind of page that the package writes, of the model that ships."""

from collections.abc import Callable
from pathlib import Path

import torch

from interp_hooks import HookedTransformer, Result, dictionaries, heatmap
from interp_hooks.circuits import attribution_graph
from interp_hooks.loading.keeping import log_steps
from interp_hooks.studies import WatchedTraining, diff_models, phase_changes, wiki
from interp_hooks.tasks.ioi_text import ioi_pairs
from interp_hooks.views import attention_page, attribution_graph_page, difference_page, write_training_report
from interp_hooks.views.demo import ioi_report
from tests.dictionaries.random_ones import sae
from tests.views.small import result

Model = HookedTransformer


def report(model: Model, folder: Path) -> Path:
    return ioi_report(model, prompts=4).write(folder / "report.html", "interp-hooks demo")


def diff(model: Model, folder: Path) -> Path:
    """The page about the model and one of which a layer was turned down."""
    other = HookedTransformer.from_pretrained("ioi-tiny")
    with torch.no_grad():
        other.blocks[1].attn.W_O.mul_(0.3)
    found = diff_models(model, other, prompts(model), n=2, names=("ioi-tiny", "with a weaker layer 1"))
    return difference_page(found, folder / "diff.html", command="interp-hooks diff a b", models=(model, other))


def training(model: Model, folder: Path) -> Path:
    """The page about a made-up training in which the loss falls when some heads rise."""
    steps = log_steps(3000)
    curve = ((torch.tensor(steps).double().log1p() - torch.tensor(200.0).log()) / 0.12).sigmoid()
    heads = {"step": steps, "head": [f"L0H{head}" for head in range(6)]}
    results = {
        "loss": Result(metric="loss_nats", axes={"step": steps}, values=(5 - curve)[:, None]),
        "induction": Result(metric="induction", axes=heads, values=curve[:, None, None] * torch.rand(6, 1)),
    }
    watched = WatchedTraining(steps=steps, results=results)
    return write_training_report(folder / "training.html", watched, phase_changes(watched), "a run")


def attention(model: Model, folder: Path) -> Path:
    prompt = prompts(model)[0]
    _, cache = model.run_with_cache(prompt)
    patterns = cache.stack_activation("pattern")[:, 0]
    sizes = torch.rand(patterns.shape[:3])
    return attention_page(patterns, model.to_str_tokens(prompt), folder / "attention.html", sizes=sizes)


def graph(model: Model, folder: Path) -> Path:
    found = attribution_graph(model, prompts(model)[0], dictionaries.load("ioi-tiny/transcoders"), progress=False)
    return attribution_graph_page(found.pruned(), folder / "graph.html")


def wiki_of_all(model: Model, folder: Path) -> Path:
    """The overview of a wiki of heads, neurons and features; pages of units lie beside it."""
    random = sae(hook="blocks.1.hook_mlp_out", d=model.cfg.d_model).to(torch.float32)

    made = wiki(model, prompts(model), folder / "wiki", dictionaries={"sae": random}, progress=False)
    return made.page


def figure(model: Model, folder: Path) -> Path:
    heatmap(result(torch.randn(3, 15, 2)), title="A figure alone").write_html(folder / "figure.html")
    return folder / "figure.html"


def prompts(model: Model) -> list[str]:
    return list(ioi_pairs(model, n=12).clean)


PAGES: dict[str, Callable[[Model, Path], Path]] = {
    one.__name__: one for one in (report, diff, training, attention, graph, wiki_of_all, figure)
}
