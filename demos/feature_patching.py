"""Which features of a sparse autoencoder carry the answer? Each one patched alone, from a source of one's own.

    python demos/feature_patching.py

The autoencoder is the simplest there is: the principal directions of the stream, each as two features, one for either
sign; trained ones have the same three attributes. Patching feature j puts x + (f_j(x') - f_j(x)) W_dec[j] in place of
x, where x' is the same activation in the clean run, recorded once. Writes bars as HTML into the current folder.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from interp_hooks import HookedTransformer, Intervention, Run, Source, at, bars, record, sweep, tasks


@dataclass(frozen=True, eq=False)
class Feature(Source):
    """One feature as it is in another run, all else as it is here."""

    W_enc: Tensor  # [d_model, feature]
    b_enc: Tensor  # [feature]
    W_dec: Tensor  # [feature, d_model]
    feature: int
    other: Run
    runs = property(lambda self: [self.other])

    def put(self, here):
        here_and_there = torch.stack((here.value, here.of(self.other)))
        f = torch.relu(here_and_there @ self.W_enc[:, self.feature] + self.b_enc[self.feature])
        return here.value + (f[1] - f[0])[..., None] * self.W_dec[self.feature]


model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
task = tasks.ioi(model, 16, templates=[0])
clean, corrupt = Run(model.to_tokens(task.clean)), Run(model.to_tokens(task.corrupt))
stream = record(model, clean, "resid_post1")["blocks.1.hook_resid_post"][:, -1]
directions = torch.linalg.svd(stream - stream.mean(0), full_matrices=False).Vh[:8]
W_dec = torch.cat((directions, -directions))
b_enc = -W_dec @ stream.mean(0)


def patched(feature: int) -> Run:
    source = Feature(W_dec.T, b_enc, W_dec, feature, clean)
    return Run(corrupt.tokens, [Intervention(at("resid_post", 1, pos=-1), source)])


result = sweep(
    model,
    patched,
    task.metric,
    over={"feature": range(len(W_dec))},
    baselines={"clean": clean, "corrupt": corrupt},
    scale=("corrupt", "clean"),
    progress=False,
)
print(result.top(5).to_string(index=False))
bars(result).write_html("feature_patching.html")
print("written: feature_patching.html")
