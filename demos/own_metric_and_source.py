"""A metric and a source of one's own: how sure is the model when heads are turned up or down?

    python demos/own_metric_and_source.py

`Entropy` reads all logits at the last token; `Turned` multiplies what is there. Both are dataclasses of values, so the
result keeps them, and whoever defines the same classes can compute it again. Writes HTML into the current folder.
"""

from dataclasses import dataclass
from tempfile import TemporaryDirectory

import torch

from interp_hooks import (
    HookedTransformer,
    Intervention,
    Metric,
    Readout,
    Result,
    Run,
    Source,
    at,
    heatmap,
    sweep,
    tasks,
)


@dataclass(frozen=True, eq=False)
class Entropy(Metric):
    name = "entropy_nats"
    readout = Readout(pos=-1)

    def score(self, logits):
        return torch.distributions.Categorical(logits=logits).entropy()


@dataclass(frozen=True, eq=False)
class Turned(Source):
    factor: float

    def put(self, here):
        return self.factor * here.value


model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
tokens = model.to_tokens(tasks.ioi(model, 16, templates=[0]).clean)


def turned(layer: int, factor: float) -> Run:
    return Run(tokens, [Intervention(at("z", layer), Turned(factor))])


grid = {"layer": range(model.cfg.n_layers), "factor": [0.0, 0.5, 1.0, 1.5, 2.0]}
result = sweep(model, turned, Entropy(), over=grid, baselines={"original": Run(tokens)}, progress=False)
print(result.table().to_string(index=False))
with TemporaryDirectory() as folder:
    result.save(f"{folder}/turned")
    again = Result.load(f"{folder}/turned").rerun(model)
print("computed again from disk:", bool(torch.equal(again.values, result.values)))
heatmap(result).write_html("own_metric_and_source.html")
print("written: own_metric_and_source.html")
