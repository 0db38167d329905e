"""A model whose heads, neurons and experts are spread over two processes gives what it gives in one, at every hook.

Two ranks are forked once, for three architectures and what else components can do; both hold the whole model beside
their part of it, and compare.
"""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor.debug import CommDebugMode

from interp_hooks import HookedTransformer, HookPoint, KeyValueCache, LogitDiff, Result, at, eap, patch, path_patch
from interp_hooks.errors import BadInput
from interp_hooks.model.components.moe import MoE
from interp_hooks.model.identity import weights_hash
from interp_hooks.model.ranks import mesh_ranks, refuse_to_spread, spread_over_ranks
from tests.children import on_ranks
from tests.tiny import CUSTOM, FAMILY_CONFIGS, assert_close, build, build_hf, random_tokens

CLOSE = 1e-12
GPT2, LLAMA, EXPERTS = "gpt2-like", "llama-like with groups", "mixture of experts"
REST = ["sinks-capped", "alibi-windows", "output-norms", "only-output-norms", "shared-norm", "post-norm", "gates"]
GATES: dict[str, Any] = dict(gated_attn=True, n_key_value_heads=2, act_fn="xielu")


def whole_model(name: str) -> HookedTransformer:
    if name == GPT2:
        return build(d_vocab_out=23)
    if name == EXPERTS:
        return build(**CUSTOM["experts"], n_key_value_heads=2, d_vocab_out=23)
    return build(**GATES) if name == "gates" else build(**CUSTOM[name])


def pair(name: str) -> tuple[HookedTransformer, HookedTransformer]:
    """A model in one process, and the same over ranks."""
    if name == LLAMA:
        options: dict[str, Any] = dict(hf_model=build_hf(FAMILY_CONFIGS["llama-biases"]()), dtype=torch.float64)
        return (
            HookedTransformer.from_pretrained("tiny", **options),
            HookedTransformer.from_pretrained("tiny", tp=2, **options),
        )
    whole = whole_model(name)
    parts = copy.deepcopy(whole)
    spread_over_ranks(parts, 2)
    return whole, parts


def tokens_of(model: HookedTransformer, seed: int = 0) -> Tensor:
    return random_tokens(2, 6, min(model.cfg.d_vocab, model.cfg.d_vocab_out), seed)


def factors(value: Tensor, name: str) -> Tensor:
    """Numbers between 0.5 and 1.5, one for each of the value's, the same on all ranks."""
    generator = torch.Generator().manual_seed(len(name))
    return torch.rand(value.shape, generator=generator, dtype=torch.float64) + 0.5


def scaled(value: Tensor, hook: HookPoint) -> Tensor:
    return value * factors(value, hook.name)


class Mixed(nn.Module):
    """Mixes all entries of the second to last axis, which are heads or neurons of all ranks."""

    def forward(self, value: Tensor) -> Tensor:
        return value.flip(-2) + 0.1 * value.mean((-2, -1), keepdim=True)


def same(parts: Any, whole: Any) -> None:
    finite = whole.isfinite()
    assert torch.equal(parts.isfinite(), finite)
    assert_close(parts.where(finite, 0), whole.where(finite, 0), CLOSE)


# ------------------------------------------------------------------------------------------------- what the ranks check


def logits_and_every_hook(whole: HookedTransformer, parts: HookedTransformer) -> None:
    tokens = tokens_of(whole)
    with torch.no_grad():
        expected, values = whole.run_with_cache(tokens, names_filter=lambda name: True)
        logits, found = parts.run_with_cache(tokens, names_filter=lambda name: True)
    same(logits, expected)
    assert list(found) == list(values)
    assert {*found} == {*whole.hook_dict}
    for name, value in values.items():
        same(found[name], value)


def gradients_at_every_hook_and_of_every_weight(whole: HookedTransformer, parts: HookedTransformer) -> None:
    tokens, caches = tokens_of(whole), []
    for model in (whole, parts):
        model.zero_grad()
        options: dict[str, Any] = dict(incl_bwd=lambda logits: logits.square().sum(), names_filter=lambda name: True)
        caches.append(model.run_with_cache(tokens, **options)[1])
    gradients = [name for name in caches[0] if name.endswith("_grad")]
    assert len(gradients) > len(whole.hook_dict) // 2
    for name in gradients:
        same(caches[1][name], caches[0][name])
    theirs = dict(parts.named_parameters())
    given = {name: weight.grad for name, weight in whole.named_parameters() if weight.grad is not None}
    largest = max(float(gradient.abs().max()) for gradient in given.values())
    for name, gradient in given.items():  # that of b_K is zero, but for rounding
        difference = (parts.whole(theirs[name].grad) - gradient).abs().max()
        assert difference <= CLOSE * max(float(gradient.abs().max()), 1e-3 * largest), name


def edits_at_every_hook(whole: HookedTransformer, parts: HookedTransformer) -> None:
    """Alone, those of one layer and those outside the layers; and together, those of all layers but of norms.

    A norm's statistics are changed for all that read them or for nobody (`HookConflict`).
    """
    tokens = tokens_of(whole)
    alone = [name for name in whole.hook_dict if name.startswith("blocks.1.") or not name.startswith("blocks.")]
    with torch.no_grad():
        plain = whole(tokens)
        for names in (*([name] for name in alone), [name for name in whole.hook_dict if ".ln" not in name]):
            hooks = [(name, scaled) for name in names]
            expected, edited = (model.run_with_hooks(tokens, fwd_hooks=hooks) for model in (whole, parts))
            same(edited, expected)
            assert not torch.equal(expected, plain) or "scale" in names[0]


def modules_that_are_spliced_in(whole: HookedTransformer, parts: HookedTransformer) -> None:
    tokens = tokens_of(whole)
    for name in (
        "blocks.1.attn.hook_z",
        "blocks.1.attn.hook_pattern",
        "blocks.0.mlp.hook_post",
        "blocks.2.hook_mlp_out",
    ):
        found = []
        for model in (whole, parts):
            with torch.no_grad(), model.splice(name, Mixed(), name="mixed"):
                found.append(model(tokens))
        same(found[1], found[0])


def generation_with_a_cache(whole: HookedTransformer, parts: HookedTransformer) -> None:
    tokens = tokens_of(whole)
    options: dict[str, Any] = dict(verbose=False, stop_at_eos=False)
    written = [model.generate(tokens, 3, do_sample=False, **options) for model in (whole, parts)]
    assert torch.equal(*written)
    cache, steps = KeyValueCache(), []
    with torch.no_grad():
        for part in tokens.split([3, 2, 1], dim=1):
            steps.append(parts(part, past_kv_cache=cache))
        same(torch.cat(steps, 1), whole(tokens))
    torch.manual_seed(torch.distributed.get_rank())
    drawn = parts.generate(tokens, 3, temperature=3.0, **options)
    ranks = parts.ranks
    assert ranks is not None
    assert torch.equal(drawn, ranks.agreed(drawn)), "ranks that draw otherwise write one text"


def experiments(whole: HookedTransformer, parts: HookedTransformer) -> None:
    clean, corrupt = tokens_of(whole), tokens_of(whole, 1)
    metric = LogitDiff(1, 2)
    quiet: dict[str, Any] = dict(progress=False)
    calls: list[Callable[[HookedTransformer], Any]] = [
        lambda model: patch(model, clean, corrupt, metric, "z", over=("layer", "head"), **quiet).values,
        lambda model: patch(model, clean, corrupt, metric, "pattern", over=("layer", "head"), **quiet).values,
        lambda model: patch(model, clean, corrupt, metric, "resid_pre", **quiet).values,
        lambda model: patch(model, clean, corrupt, metric, "mlp_out", **quiet).values,
        lambda model: path_patch(model, clean, corrupt, metric, receivers=at("q_input", 2), **quiet).values,
        lambda model: eap(model, clean, corrupt, metric).scores.matrix,
    ]
    for call in calls:
        same(call(parts), call(whole))
    found = patch(parts, clean, corrupt, metric, "mlp_out", **quiet)
    with tempfile.TemporaryDirectory() as folder:  # one of each rank's own: saving reads the weights of all
        found.save(folder + "/found")
        assert torch.equal(Result.load(folder + "/found").values, found.values)


def parts_are_parts(whole: HookedTransformer, parts: HookedTransformer) -> None:
    """Each rank has half of what is spread; a pass that nobody hooks shows nothing to anybody."""
    for name in ("W_Q", "W_O"):
        weight: Any = parts.blocks[1].attn.get_parameter(name)
        assert weight.to_local().shape[0] == whole.cfg.n_heads // 2
        own = torch.distributed.get_rank() * whole.cfg.n_heads // 2
        assert torch.equal(
            weight.to_local(), whole.blocks[1].attn.get_parameter(name)[own : own + whole.cfg.n_heads // 2]
        )
    assert torch.equal(parts.W_O, whole.W_O)
    assert weights_hash(parts) == weights_hash(whole)
    with CommDebugMode() as told, torch.no_grad():
        parts(tokens_of(whole))
    assert counts(told) == {"all_reduce": 2 * whole.cfg.n_layers + shared_mlps(whole)}
    with CommDebugMode() as told, torch.no_grad():
        parts.run_with_cache(tokens_of(whole), names_filter="blocks.1.attn.hook_z")
    assert counts(told) == {"all_reduce": 2 * whole.cfg.n_layers + shared_mlps(whole), "all_gather_into_tensor": 1}


def counts(told: CommDebugMode) -> dict[str, int]:
    """How often ranks talked, as torch counts it."""
    return {str(kind).rpartition(".")[2]: count for kind, count in told.get_comm_counts().items()}


def shared_mlps(model: HookedTransformer) -> int:
    return sum(isinstance(block.mlp, MoE) and block.mlp.shared is not None for block in model.blocks)


def a_folder_to_load_from(whole: HookedTransformer, parts: HookedTransformer) -> None:
    """A bundled model is the same with its blocks in files while it loads, which are gone then."""
    del whole, parts
    expected = HookedTransformer.from_pretrained_no_processing("ioi-tiny", device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        found = HookedTransformer.from_pretrained_no_processing("ioi-tiny", tp=2, offload_folder=folder)
        assert [*Path(folder).iterdir()] == []
    with torch.no_grad():
        assert_close(found("When Mary and John"), expected("When Mary and John"), 1e-5)
    assert weights_hash(found) == weights_hash(expected)


def what_needs_the_whole_model_is_refused(whole: HookedTransformer, parts: HookedTransformer) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: parts.save_pretrained("nowhere"),
        parts.process_weights_,
        parts.to_hf,
        lambda: parts.load_state_dict(whole.state_dict()),
        lambda: parts.set_ungroup_grouped_query_attention(True),
    ]
    for call in calls:
        with pytest.raises(BadInput, match="spread over ranks: do that in one process"):
            call()
    with pytest.raises(BadInput, match="spread a model once"):
        spread_over_ranks(parts, 2)
    with pytest.raises(BadInput, match="tp=4 must divide the number of processes, which is 2"):
        mesh_ranks(4, torch.device("cpu"))
    assert not Path("nowhere").exists()


SHORT = [logits_and_every_hook, gradients_at_every_hook_and_of_every_weight]
LONG = [
    *SHORT,
    edits_at_every_hook,
    modules_that_are_spliced_in,
    generation_with_a_cache,
    experiments,
    parts_are_parts,
    what_needs_the_whole_model_is_refused,
]


def on_a_rank(names: list[str]) -> None:
    for name in names:
        whole, parts = pair(name)
        for check in SHORT if name in REST else [*LONG, a_folder_to_load_from] if name == GPT2 else LONG:
            try:
                check(whole, parts)
            except Exception as error:
                raise AssertionError(f"{check.__name__} of {name}") from error
    torch.distributed.destroy_process_group()


# ------------------------------------------------------------------------------------------------------------ the tests


@pytest.mark.slow
def test_two_ranks_are_one_model() -> None:
    on_ranks(lambda: on_a_rank([GPT2, LLAMA, EXPERTS, *REST]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(n_heads=3), "tp=2 must divide n_heads=3"),
        (dict(n_key_value_heads=1), "tp=2 must divide n_key_value_heads=1"),
        (dict(d_mlp=21), "tp=2 must divide d_mlp=21"),
        (CUSTOM["latent"], "latent attention is not spread"),
        (CUSTOM["solu"], "act_fn='solu_ln' compares all neurons"),
    ],
)
def test_what_cannot_be_spread_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        refuse_to_spread(build(**fields).cfg, 2)


def test_without_torchrun_there_are_no_ranks() -> None:
    with pytest.raises(BadInput, match="tp=2 runs under torchrun"):
        HookedTransformer.from_pretrained("ioi-tiny", device="cpu", tp=2)
    model = build()
    with pytest.raises(BadInput, match="tp=2 runs under torchrun"):
        spread_over_ranks(model, 2)
    assert model.ranks is None
    with pytest.raises(BadInput, match="tp= and device_map= each say where weights go"):
        HookedTransformer.from_pretrained("ioi-tiny", tp=2, device_map="auto")
