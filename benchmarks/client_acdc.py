"""ACDC, of a checkout: experiments that take edges away, from corrupted values and from zeros.

python client_acdc.py CHECKOUT
"""

import contextlib
import io
import sys
from typing import Any

import torch
from client_steps import SIZES, let_moved_names_be_there, run, step, tiny

sys.path.insert(0, sys.argv[1])
let_moved_names_be_there()
OPTIONS = dict(use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True)
CLEAN, CORRUPTED = torch.randint(4, SIZES["d_vocab"], (2, 3, 7), generator=torch.Generator().manual_seed(0))


def experiment(threshold: float = 1e-5, **options: Any) -> Any:
    import acdc.TLACDCExperiment as here

    here.show = lambda *_, **__: None  # no picture of the graph after every step
    model = tiny(None, **OPTIONS, **options.pop("fields", {}))
    with torch.no_grad():
        base = model(CLEAN).log_softmax(-1)

    def metric(logits: Any) -> Any:
        return (base.exp() * (base - logits.log_softmax(-1))).sum(-1).mean()

    defaults: dict[str, Any] = dict(
        ds=CLEAN, ref_ds=CORRUPTED, threshold=threshold, metric=metric, names_mode="normal", indices_mode="normal",
    )  # fmt: skip
    with torch.no_grad():
        return here.TLACDCExperiment(model, **defaults | options)


def found(steps: int, **options: Any) -> Any:
    """The metric after every step, and which edges are left with what effects."""
    metrics = []
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        made = experiment(**options)
        for _ in range(steps):
            if made.current_node is None:
                break
            made.step()
            metrics.append(made.cur_metric)
    edges = [(edge.present, edge.effect_size or 0.0) for edge in made.corr.all_edges().values()]
    return metrics, edges, made.count_no_edges()


@step
def imports() -> None:
    import acdc.acdc_utils
    import acdc.TLACDCExperiment  # noqa: F401


@step
def the_graph_of_a_model() -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        return experiment().count_no_edges()


@step
def some_steps() -> Any:
    return found(6)


@step
def all_steps() -> Any:
    return found(100, fields=dict(n_layers=1))


@step
def from_zeros() -> Any:
    return found(100, zero_ablation=True, fields=dict(n_layers=1))


@step
def with_positions_apart() -> Any:
    return found(100, use_pos_embed=True, fields=dict(n_layers=1))


@step
def with_hooks_on_receivers() -> Any:
    return found(6, add_receiver_hooks=True, add_sender_hooks=True)


@step
def attention_only() -> Any:
    return found(100, fields=dict(attn_only=True))


run()
