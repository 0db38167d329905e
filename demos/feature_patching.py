"""Which features of a sparse autoencoder carry the answer? Each one patched alone, from a source of one's own.

    python demos/feature_patching.py

The autoencoder is the simplest there is: the principal directions of the stream, each as two features, one for either
sign; trained ones have an encoder of their own. Patching feature j puts x + (f_j(x') - f_j(x)) W_dec[j] in place of x,
where x' is the same activation in the clean run, recorded once. Writes bars as HTML into the current folder.
"""

from dataclasses import dataclass

import torch

from interp_hooks import HookedTransformer, Intervention, Run, Source, at, bars, record, sweep, tasks


@dataclass(frozen=True, eq=False)
class Feature(Source):
    W_dec: torch.Tensor  # [d_model], of this feature; the encoder is the same, less the bias
    b_enc: torch.Tensor  # []
    other: Run
    runs = property(lambda self: [self.other])

    def put(self, here):
        f, new = (torch.relu(x @ self.W_dec + self.b_enc) for x in (here.value, here.of(self.other)))
        return here.value + (new - f)[..., None] * self.W_dec


model = HookedTransformer.from_pretrained("ioi-tiny", device="cpu")
task = tasks.ioi(model, 16, templates=[0])
clean, corrupt = Run(model.to_tokens(task.clean)), Run(model.to_tokens(task.corrupt))
stream = record(model, clean, "resid_post1")["blocks.1.hook_resid_post"][:, -1]
directions = torch.linalg.svd(stream - stream.mean(0), full_matrices=False).Vh[:8]
W_dec = torch.cat((directions, -directions))
site, b_enc = at("resid_post", 1, pos=-1), -W_dec @ stream.mean(0)
grid, baselines = {"feature": range(len(W_dec))}, {"clean": clean, "corrupt": corrupt}
options = dict(over=grid, baselines=baselines, scale=("corrupt", "clean"), progress=False)
sources = [Feature(*feature, clean) for feature in zip(W_dec, b_enc, strict=True)]
result = sweep(
    model, lambda feature: Run(corrupt.tokens, [Intervention(site, sources[feature])]), task.metric, **options
)
print(result.top(5).to_string(index=False))
bars(result).write_html("feature_patching.html")
print("written: feature_patching.html")
