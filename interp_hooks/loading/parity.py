"""Does a converted model compute what HuggingFace's does? A comparison that users can run on any checkpoint.

Both models read the same tokens. The report compares logits, probabilities and the most likely tokens, and checks that
the hooks of the converted model mean what they say (the sums that make up the stream, `pattern @ v == z`, ...).
"""

import importlib.metadata
import json
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.hooks.modes import no_gradients
from interp_hooks.loading.checkpoints import NamedCheckpoint
from interp_hooks.loading.given import check_model
from interp_hooks.loading.load import family_of
from interp_hooks.model.config import as_dtype
from interp_hooks.model.stream import BEFORE_MLP, Stream
from interp_hooks.model.transformer import HookedTransformer

TEXT = (
    "When Mary and John went to the store, John gave a drink to Mary. The old lighthouse had been empty for 40 years, "
    "until one morning its lamp was burning again; nobody could say who had climbed the stairs. "
    "def add(a, b): return a + b"
)
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True, kw_only=True)
class Report:
    """How far two models are apart. Logit errors are relative to the largest log-probability, KL is in nats.

    `invariants` are the largest relative violations of what the hooks promise.
    """

    name: str
    architecture: str
    dtype: str
    tokens: int
    max_error: float
    mean_error: float
    max_kl_nats: float
    top1_agreement: float
    invariants: dict[str, float]
    parameter_bytes: int
    peak_process_bytes: int
    tolerance: float
    processing: list[str]
    versions: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance of the model's dtype."""
        return all(error <= self.tolerance for error in (self.max_error, *self.invariants.values()))  # and none is nan

    def to_json(self) -> str:
        """All fields, and `passed`, as JSON."""
        return json.dumps(asdict(self) | {"passed": self.passed}, indent=2)

    def __str__(self) -> str:
        rows = {
            "model": f"{self.name} ({self.architecture}, {self.dtype})",
            "compared on": f"{self.tokens} tokens",
            "largest error of log-probabilities": f"{self.max_error:.2e}",
            "mean error": f"{self.mean_error:.2e}",
            "largest KL divergence (nats)": f"{self.max_kl_nats:.2e}",
            "same most likely token": f"{self.top1_agreement:.2%}",
            **{f"holds: {name}": f"{error:.2e}" for name, error in self.invariants.items()},
            "parameters": f"{self.parameter_bytes / 2**20:.1f} MiB",
            "peak memory of the process": f"{self.peak_process_bytes / 2**20:.0f} MiB, both models in it",
            "processing": "; ".join(self.processing),
            "versions": ", ".join(f"{name} {version}" for name, version in self.versions.items()),
            "result": f"{'PASSED' if self.passed else 'FAILED'} (allowed: {self.tolerance:.0e}, relative)",
        }
        width = max(map(len, rows))
        return "\n".join(f"{label:<{width}}  {value}" for label, value in rows.items())


@no_gradients
def verify(model: HookedTransformer, hf_model: Any, tokens: Int[Tensor, "batch pos"] | None = None) -> Report:
    """Compare a converted model with a HuggingFace one on `tokens` (default: random ones, 2 x 32).

    Raises:
        BadInput: models of different vocabularies, what is no model of transformers, or one that lets tokens see those
            that follow, where the converted model does not.
    """
    check_model(hf_model)
    d_vocab = hf_model.get_input_embeddings().weight.shape[0]
    if d_vocab != model.cfg.d_vocab:
        raise BadInput(f"the models do not fit: vocabularies of {model.cfg.d_vocab} and {d_vocab} tokens")
    if tokens is None:
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(model.cfg.d_vocab, (2, min(32, model.cfg.n_ctx)), generator=generator)
    theirs = _logits_of(hf_model, tokens)
    ours = model(tokens, attention_mask=torch.ones_like(tokens)).to(theirs.device)
    if ours.shape != theirs.shape:
        raise BadInput(f"the models do not fit: logits of shape {list(ours.shape)} and {list(theirs.shape)}")
    p, q = theirs.double().log_softmax(-1), ours.double().log_softmax(-1)
    error = (p - q).abs() / p.abs().max()
    tolerance = TOLERANCE[model.dtype]
    if error.max() > tolerance and model.cfg.attention_dir == "causal":
        _refuse_what_sees_ahead(hf_model, tokens, p, tolerance)
    return Report(
        name=model.cfg.model_name,
        architecture=type(hf_model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        tokens=tokens.numel(),
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        max_kl_nats=float((p.exp() * (p - q)).sum(-1).max()),
        top1_agreement=float((p.argmax(-1) == q.argmax(-1)).double().mean()),
        invariants=invariants(model, tokens),
        parameter_bytes=sum(weight.numel() * weight.element_size() for weight in model.parameters()),
        peak_process_bytes=_peak_process_bytes(),
        tolerance=tolerance,
        processing=model.processing_report(),
        versions={
            **{name: importlib.metadata.version(name) for name in ("interp-hooks", "torch", "transformers")},
            "python": platform.python_version(),
        },
    )


def _logits_of(hf_model: Any, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
    was_training = hf_model.training
    hf_model.eval()
    logits = hf_model(input_ids=tokens.to(next(hf_model.parameters()).device), return_dict=True).logits
    hf_model.train(was_training)
    return logits


def _refuse_what_sees_ahead(
    hf_model: Any, tokens: Int[Tensor, "batch pos"], known: Float[Tensor, "batch pos d_vocab"], tolerance: float
) -> None:
    """Raises BadInput if a decoder of transformers predicts otherwise without the tokens that follow."""
    half = tokens.shape[1] // 2
    if not half:
        return
    alone = _logits_of(hf_model, tokens[:, :half]).double().log_softmax(-1)
    if (alone - known[:, :half]).abs().max() > tolerance * known.abs().max():
        raise BadInput(
            f"transformers {importlib.metadata.version('transformers')} lets tokens of this {type(hf_model).__name__} "
            "see those that follow, unless it is given a causal mask, so that its logits are not those of a decoder "
            "and cannot be compared. Later versions make the mask themselves"
        )


def _peak_process_bytes() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def verify_checkpoint(
    name: str, *, text: str | None = None, dtype: str = "float32", processing: bool = True, **hf_kwargs: Any
) -> Report:
    """Load a checkpoint twice, with `transformers` and as a `HookedTransformer`, and compare.

    They read `text` (default: a few sentences, or random tokens if the checkpoint has no tokenizer).

    Raises:
        CheckpointError: not found, or not convertible.
        NoTokenizer: a text for a checkpoint that has no tokenizer.
    """
    as_dtype(dtype)  # refuses a name that is none before anything is loaded
    checkpoint = NamedCheckpoint(name=name, hf_kwargs=hf_kwargs)
    hf_config = checkpoint.config()
    family = family_of(hf_config)
    load = HookedTransformer.from_pretrained if processing else HookedTransformer.from_pretrained_no_processing
    model = load(name, dtype=dtype, **hf_kwargs)
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}  # the others don't know every dtype
    theirs = family.class_for(hf_config).from_pretrained(
        checkpoint.location, dtype=model.dtype, **(plain | checkpoint.arguments)
    )
    hf_model = theirs.to(model.device)
    if text is None and model.tokenizer is not None:
        return verify(model, hf_model, model.to_tokens(TEXT, truncate=True))
    return verify(model, hf_model, None if text is None else model.to_tokens(text))


@no_gradients
def invariants(model: HookedTransformer, tokens: Int[Tensor, "batch pos"]) -> dict[str, float]:
    """By what each equation that the hooks promise is violated at most, over all layers, relative to its right side."""
    worst: dict[str, float] = {}

    def holds(name: str, left: Tensor, right: Tensor) -> None:
        error = float((left.double() - right.double()).abs().max() / right.double().abs().max().clamp(min=1e-30))
        worst[name] = max(worst.get(name, 0.0), math.inf if math.isnan(error) else error)

    real = torch.ones_like(tokens)
    _, cache = model.run_with_cache(
        tokens, attention_mask=real, names_filter=lambda name: True, return_cache_object=False
    )
    for layer, block in enumerate(model.blocks):
        here = {name.removeprefix(f"blocks.{layer}."): value for name, value in cache.items()}
        _stream(model, layer, here, holds)
        for part, mixer in zip(("attn.", "recurrence."), block.mixers, strict=False):
            inside = {name.removeprefix(part): value for name, value in here.items() if name.startswith(part)}
            for promise in mixer.promises(inside):
                holds(*promise)
        experts = model.cfg.experts
        normalized = model.cfg.writes_normalized_at(layer) or (experts is not None and experts.output_norm)
        if "mlp.experts.hook_out" in here and not normalized:
            written = here["mlp.experts.hook_out"].double().sum(2)
            shared = here.get("mlp.hook_shared_out")
            total = written if shared is None else written + shared.double()
            bias = block.mlp.b_out
            total = total if bias is None else total + bias.double()
            holds("mlp_out == sum of experts", total * block.residual_scale, here["hook_mlp_out"])
    return worst


def _stream(model: HookedTransformer, layer: int, here: dict[str, Tensor], holds: Any) -> None:
    def adds_up(total: str, labels: Sequence[str]) -> None:
        written = here["hook_resid_pre"] + sum(here[f"hook_{label}"] for label in labels)
        holds(f"{total} == {' + '.join(['resid_pre', *labels])}", written, here[f"hook_{total}"])

    added = list(Stream(model).sublayers(layer))
    if "hook_resid_mid" in here:
        adds_up("resid_mid", [label for label in added if label in BEFORE_MLP])
    if model.cfg.norm_placement == "post":
        before = model.blocks[layer].ln1(here["hook_resid_mid"])
        holds("resid_post == ln1(resid_mid) + mlp_out", before + here["hook_mlp_out"], here["hook_resid_post"])
    else:
        adds_up("resid_post", added)
