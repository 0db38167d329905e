"""A metric and a source of one's own: how sure is the model when heads are turned up or down?

    python demos/own_metric_and_source.py

`Entropy` reads all logits at the last token; `Turned` multiplies what is there. Both are dataclasses of values, so the
result keeps them, and whoever defines the same classes can compute it again. Writes the result, and a heat map as HTML,
into the current folder.
"""

from dataclasses import dataclass

import torch

import interp_hooks as ih


@dataclass(frozen=True, eq=False)
class Entropy(ih.Metric):
    name = "entropy_nats"
    readout = ih.Readout(pos=-1)

    def score(self, logits):
        return torch.distributions.Categorical(logits=logits).entropy()


@dataclass(frozen=True, eq=False)
class Turned(ih.Source):
    factor: float

    def put(self, here):
        return self.factor * here.value


model = ih.HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
base = ih.Run(model.to_tokens(ih.tasks.ioi(model, 16, templates=[0]).clean))
result = ih.sweep(
    model,
    lambda layer, factor: ih.Run(base.tokens, [ih.Intervention(ih.at("z", layer), Turned(factor))]),
    Entropy(),
    over={"layer": range(model.cfg.n_layers), "factor": [0.0, 0.5, 1.0, 1.5, 2.0]},
    progress=False,
)
print(result.table().to_string(index=False))
result.save("turned", overwrite=True)
print("computed again:", torch.equal(ih.Result.load("turned").rerun(model).values, result.values))
ih.heatmap(result).write_html("own_metric_and_source.html")
print("written: own_metric_and_source.html")
