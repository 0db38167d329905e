"""What the model would say of its stream at each layer.

base           `Lens`: an affine map of the stream for each layer
reading        what a lens says of prompts, or of a run with interventions
logit          the logit lens: no map
jacobian       fits of the Jacobian lens
tuned          fits of the tuned lens
files          lenses on disk, published ones too
vectors        the direction of each token: to steer with, to ablate, to swap, to clamp
decomposition  the stream as a sum of few of them
"""

from interp_hooks.studies.lenses.base import Lens
from interp_hooks.studies.lenses.decomposition import LensDecomposition, lens_decomposition
from interp_hooks.studies.lenses.files import load_lens, save_lens
from interp_hooks.studies.lenses.jacobian import fit_jacobian_lens, gather_jacobian_lens
from interp_hooks.studies.lenses.logit import logit_lens
from interp_hooks.studies.lenses.reading import LensResult
from interp_hooks.studies.lenses.tuned import fit_tuned_lens
from interp_hooks.studies.lenses.vectors import LensVectors, lens_vectors
from interp_hooks.studies.logit_attribution import DirectLogitAttribution, direct_logit_attribution

LogitLens = LensResult  # what it was called when it was the logit lens' alone

__all__ = [
    "DirectLogitAttribution",
    "Lens",
    "LensDecomposition",
    "LensResult",
    "LensVectors",
    "LogitLens",
    "direct_logit_attribution",
    "fit_jacobian_lens",
    "fit_tuned_lens",
    "gather_jacobian_lens",
    "lens_decomposition",
    "lens_vectors",
    "load_lens",
    "logit_lens",
    "save_lens",
]
