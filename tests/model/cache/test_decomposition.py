"""That the parts of a residual stream add up to it, in every arrangement."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from interp_hooks import ActivationCache, HookedTransformer
from interp_hooks.errors import BadInput, UnknownHook
from tests.model.cache.runs_to_decompose import (
    EXACT,
    KINDS,
    NEARBY,
    POS,
    SUMS,
    TOKENS,
    TYPES,
    Ran,
    built,
    entering,
    ran,
    ran_in,
)
from tests.tiny import assert_close, build, hooked, our_logits


@pytest.fixture(scope="module", params=KINDS)
def run(request: pytest.FixtureRequest) -> Ran:
    return ran(request.param)


@pytest.fixture(scope="module")
def cache() -> ActivationCache:
    return ran("LN")[1]


# ---------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("layer", [0, 1, 3, None, -1])
def test_parts_sum_to_the_stream(run: Any, layer: int | None) -> None:
    model, cache, _ = run
    at = 3 if layer in (None, -1) else layer
    parts, labels = cache.decompose_resid(layer, return_labels=True)
    assert_close(parts.sum(0), entering(model, at), EXACT)
    learned = model.cfg.positional_embedding_type == "standard"
    per_layer = [["attn_out"], ["attn_out", "mlp_out"]][not model.cfg.attn_only]
    expected = ["embed"] + ["pos_embed"] * learned + [f"{one}_{part}" for one in range(at) for part in per_layer]
    assert labels == expected


def test_the_stream_that_the_mlp_reads(run: Any) -> None:
    model, cache, _ = run
    if model.cfg.attn_only:
        return
    parts, labels = cache.decompose_resid(1, mlp_input=True, return_labels=True)
    _, seen = model.run_with_cache(TOKENS, names_filter="mlp_in1")
    assert_close(parts.sum(0), seen["mlp_in1"], EXACT)
    assert labels[-1] == ("0_mlp_out" if model.cfg.parallel_attn_mlp else "1_attn_out")


def test_only_some_parts(cache: ActivationCache) -> None:
    _, attn = cache.decompose_resid(2, mode="attn", return_labels=True)
    assert attn == ["embed", "pos_embed", "0_attn_out", "1_attn_out"]
    _, mlp = cache.decompose_resid(2, mode="mlp", incl_embeds=False, return_labels=True)
    assert mlp == ["0_mlp_out", "1_mlp_out"]


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("mlp_input", [False, True])
def test_normalized_parts_sum_to_what_the_reader_reads(run: Any, layer: int, mlp_input: bool) -> None:
    """With the gain inside each part and the bias as a part of its own, whether folded or not."""
    model, cache, _ = run
    if mlp_input and (layer == 3 or model.cfg.attn_only):
        return
    norm = model.ln_final if layer == 3 else (model.blocks[layer].ln2 if mlp_input else model.blocks[layer].ln1)
    read = "mlp_in1" if mlp_input else {1: "resid_pre1", 3: "resid_post2"}[layer]
    _, seen = model.run_with_cache(TOKENS, names_filter=read)
    with torch.no_grad():
        expected = norm(next(iter(seen.values())))
    parts, labels = cache.decompose_resid(layer, mlp_input=mlp_input, apply_ln=True, return_labels=True)
    assert_close(parts.sum(0), expected, EXACT)
    assert ("bias" in labels) == (model.cfg.normalization_type == "LN")


def test_accumulated_streams(run: Any) -> None:
    model, cache, _logits = run
    streams, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    has_mid = not (model.cfg.attn_only or model.cfg.parallel_attn_mlp)
    expected = [f"{at}_{where}" for at in range(3) for where in (["pre", "mid"] if has_mid else ["pre"])]
    assert labels == [*expected, "final_post"]
    for label, stream in zip(labels, streams, strict=True):
        at, where = label.split("_")
        assert torch.equal(stream, cache[f"resid_{where}", -1 if at == "final" else int(at)])


def test_the_last_accumulated_stream_unembeds_to_the_logits(run: Any) -> None:
    """As a logit lens reads it, statistics recomputed, gain and bias included."""
    model, cache, logits = run
    streams = cache.accumulated_resid(apply_ln=True)
    assert_close(streams[-1] @ model.W_U + model.b_U, logits, EXACT)
    with torch.no_grad():
        assert_close(streams[1], model.ln_final(cache["resid_pre", 1]), EXACT)


def test_accumulated_streams_up_to_a_layer(cache: ActivationCache) -> None:
    assert cache.accumulated_resid(2, return_labels=True)[1] == ["0_pre", "1_pre", "2_pre"]
    assert cache.accumulated_resid(1, mlp_input=True, return_labels=True)[1] == ["0_pre", "1_pre", "1_mid"]
    assert cache.accumulated_resid(0, return_labels=True)[1] == ["0_pre"]


@pytest.mark.parametrize("layer", [1, 2, -1])
def test_heads_and_remainder_sum_to_the_stream(run: Any, layer: int) -> None:
    model, cache, _ = run
    at = 3 if layer == -1 else layer
    rows, labels = cache.stack_head_results(layer, incl_remainder=True, return_labels=True)
    assert labels == [f"L{one}H{head}" for one in range(at) for head in range(4)] + ["remainder"]
    assert_close(rows.sum(0), entering(model, at), EXACT)
    _, seen = model.run_with_cache(TOKENS, names_filter="result0")
    assert_close(rows[2], seen["result0"][:, :, 2], EXACT)


def test_heads_of_a_layer_sum_to_its_output(run: Any) -> None:
    model, cache, _ = run
    rows = cache.stack_head_results()
    assert_close(rows[4:8].sum(0) + model.blocks[1].attn.b_O, cache["attn_out", 1], EXACT)


def test_normalized_heads_and_remainder_sum_to_what_is_unembedded(run: Any) -> None:
    model, cache, logits = run
    rows = cache.stack_head_results(incl_remainder=True, apply_ln=True)
    assert_close(rows.sum(0) @ model.W_U + model.b_U, logits, EXACT)


# -------------------------------------------------------------------------------------------------------------- neurons


def read_as(part: Tensor, model: HookedTransformer, scale: Tensor | None, norm: Any) -> Tensor:
    """A part of a norm's input, by hand, at the scale of the run."""
    if scale is None:
        return part
    part = part - part.mean(-1, keepdim=True) if norm.kind in ("LN", "LNPre") else part
    gain = 1.0 if norm.w is None else norm.w.detach() + model.cfg.norm_gain_offset
    return part / scale * gain


def neuron_by_hand(model: HookedTransformer, cache: ActivationCache, layer: int, neuron: int) -> Tensor:
    """What one neuron adds to the stream, [batch, pos, d_model]."""
    block = model.blocks[layer]
    written = cache[f"blocks.{layer}.mlp.hook_post"][..., neuron, None] * block.mlp.W_out[neuron].detach()
    scale = cache.get(f"blocks.{layer}.ln2_post.hook_scale")
    return read_as(written, model, scale, block.ln2_post) * block.residual_scale


WITH_NEURONS = [kind for kind in KINDS if kind != "attn only"]
DENSE = [name for name in SUMS if "experts" not in name and name != "attn-only"]


@pytest.mark.parametrize("name", DENSE)
def test_every_neuron_is_what_its_row_of_W_out_adds(name: str) -> None:
    model, cache, _ = ran_in(name)
    stack, labels = cache.stack_neuron_results(2, return_labels=True)
    assert labels == [f"L{layer}N{neuron}" for layer in (0, 1) for neuron in range(20)]
    for row, (layer, neuron) in ((0, (0, 0)), (7, (0, 7)), (39, (1, 19))):
        assert_close(stack[row], neuron_by_hand(model, cache, layer, neuron), EXACT)
    by_layer = cache.get_neuron_results(1)
    assert list(by_layer.shape) == [3, POS, 20, 12]
    assert_close(by_layer.movedim(2, 0), stack[20:], EXACT)


@pytest.mark.parametrize("kind", WITH_NEURONS)
def test_neurons_and_the_bias_sum_to_what_the_mlp_writes(kind: str) -> None:
    model, cache, _ = ran(kind)
    neurons = cache.get_neuron_results(-1)
    assert_close(neurons.sum(2) + model.blocks[2].mlp.b_out, cache["mlp_out", -1], EXACT)


@pytest.mark.parametrize("layer", [0, 1, 2, -1, None])
@pytest.mark.parametrize("kind", WITH_NEURONS)
def test_neurons_and_remainder_sum_to_the_stream(kind: str, layer: int | None) -> None:
    model, cache, _ = ran(kind)
    at = 3 if layer in (None, -1) else layer
    rows, labels = cache.stack_neuron_results(layer, incl_remainder=True, return_labels=True)
    assert len(rows) == len(labels) == 20 * at + 1
    assert labels[-1] == "remainder"
    assert_close(rows.sum(0), entering(model, at), EXACT)


@pytest.mark.parametrize("kind", WITH_NEURONS)
def test_normalized_neurons_and_remainder_sum_to_what_is_unembedded(kind: str) -> None:
    model, cache, logits = ran(kind)
    rows, labels = cache.stack_neuron_results(incl_remainder=True, apply_ln=True, return_labels=True)
    assert labels[60:] == ["remainder"] + ["bias"] * (model.ln_final.b is not None)
    assert_close(rows.sum(0) @ model.W_U + model.b_U, logits, EXACT)


NEURONS: dict[str, tuple[Any, list[int]]] = {
    "one": (3, [3]),
    "the last": (-1, [19]),
    "a range": ((2, 9, 3), [2, 5, 8]),
    "some": (torch.tensor([5, 0]), [5, 0]),
    "a mask": ([neuron % 7 == 0 for neuron in range(20)], [0, 7, 14]),
}


@pytest.mark.parametrize("label", NEURONS)
@pytest.mark.parametrize("where", [None, -1, (1, 4)])
def test_neuron_and_position_slices(label: str, where: Any) -> None:
    model, cache, _ = ran("LN")
    chosen, neurons = NEURONS[label]
    sliced = {None: lambda x: x, -1: lambda x: x[:, -1], (1, 4): lambda x: x[:, 1:4]}[where]
    expected = {
        f"L{layer}N{neuron}": sliced(neuron_by_hand(model, cache, layer, neuron))
        for layer in range(3)
        for neuron in neurons
    }
    stack, labels = cache.stack_neuron_results(-1, where, chosen, return_labels=True)
    assert [str(label) for label in labels] == [label.replace("N-1", "N19") for label in expected]
    assert_close(stack, torch.stack(list(expected.values())), EXACT)
    results = cache.get_neuron_results(1, chosen, where)
    by_hand = torch.stack([expected[f"L1N{neuron}"] for neuron in neurons], dim=-2)
    assert_close(results, by_hand[..., 0, :] if isinstance(chosen, int) else by_hand, EXACT)


@pytest.mark.parametrize("columns", [None, 2])
@pytest.mark.parametrize("apply_ln", [False, True])
@pytest.mark.parametrize("name", [*KINDS, *DENSE])
def test_projected_rows_are_the_projections_of_rows(name: str, apply_ln: bool, columns: int | None) -> None:
    """In every arrangement of norms: frozen scales, means and gains of outputs and of what reads them."""
    model, cache, _ = ran(name) if name in KINDS else ran_in(name)
    onto = torch.randn(12, *([] if columns is None else [columns]), dtype=torch.float64)
    options = dict(apply_ln=apply_ln, return_labels=True)
    requests = [lambda **more: cache.get_full_resid_decomposition(expand_neurons=False, **options, **more)]
    if not model.cfg.attn_only:
        requests.append(lambda **more: cache.stack_neuron_results(2, incl_remainder=True, **options, **more))
        requests.append(lambda **more: cache.get_full_resid_decomposition(2, mlp_input=True, **options, **more))
        assert_close(cache.get_neuron_results(1, project_output_onto=onto), cache.get_neuron_results(1) @ onto, EXACT)
    for request_of in requests:
        (projected, labels), (rows, of_rows) = request_of(project_output_onto=onto), request_of()
        assert labels == of_rows
        assert_close(projected, rows @ onto, EXACT)


def test_one_projected_neuron() -> None:
    model, cache, _ = ran("LN")
    onto = torch.randn(12, 2, dtype=torch.float64)
    by_hand = neuron_by_hand(model, cache, 1, 4) @ onto
    assert_close(cache.get_neuron_results(1, 4, project_output_onto=onto), by_hand, EXACT)
    assert_close(cache.get_neuron_results(1, 4, project_output_onto=onto[:, 0]), by_hand[..., 0], EXACT)


class Largest(TorchDispatchMode):
    """Watches for the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [one.numel() for one in pytree.tree_leaves(made) if isinstance(one, Tensor)]
        self.size = max([self.size, *sizes])
        return made


@pytest.mark.parametrize("apply_ln", [False, True])
@pytest.mark.parametrize("name", ["LN", "LN folded", "RMS", "parallel", "output-norms"])
def test_no_vector_of_a_neuron_is_made_where_they_are_projected(name: str, apply_ln: bool) -> None:
    _, cache, _ = ran(name) if name in KINDS else ran_in(name)
    one_layer = 3 * POS * 20 * 12  # [batch, pos, d_mlp, d_model]
    onto = torch.randn(12, 1, dtype=torch.float64)
    requests: list[Callable[..., Any]] = [
        lambda **more: cache.stack_neuron_results(-1, apply_ln=apply_ln, incl_remainder=True, **more),
        lambda **more: cache.get_full_resid_decomposition(apply_ln=apply_ln, **more),
        lambda **more: cache.get_neuron_results(1, **more),
    ]
    for request_of in requests:
        with Largest() as with_vectors:
            request_of()
        assert with_vectors.size >= one_layer, "the watcher sees it"
        with Largest() as projected:
            request_of(project_output_onto=onto)
        assert 0 < projected.size < one_layer


# ---------------------------------------------------------------------------------------------------- all parts at once


@pytest.mark.parametrize("expand_neurons", [False, True])
@pytest.mark.parametrize(
    ("layer", "mlp_input"), [(0, False), (0, True), (1, False), (2, True), (3, False), (-1, False)]
)
@pytest.mark.parametrize("name", [*KINDS, *SUMS])
def test_the_full_decomposition_sums_to_what_is_read(
    name: str, layer: int, mlp_input: bool, expand_neurons: bool
) -> None:
    model, cache, _ = ran(name) if name in KINDS else ran_in(name)
    at = 3 if layer == -1 else layer
    if (mlp_input and model.cfg.attn_only) or (expand_neurons and any(map(model.cfg.has_experts, range(at)))):
        return
    options = dict(mlp_input=mlp_input, expand_neurons=expand_neurons)
    rows, labels = cache.get_full_resid_decomposition(layer, **options, return_labels=True)
    mid = mlp_input and not model.cfg.parallel_attn_mlp
    stream = cache["resid_mid", at] if mid else cache["resid_post", 2] if at == 3 else cache["resid_pre", at]
    assert_close(rows.sum(0), stream, EXACT)
    mlps = [] if model.cfg.attn_only else range(at)
    expected = [f"L{one}H{head}" for one in range(at + mid) for head in range(4)]
    expected += [label for one in mlps for label in neurons_of(model, one, expand_neurons)]
    several = model.cfg.n_streams > 1  # of which the layers' embeddings write to the others
    others = ["laurel_out", "altup_out"] if several else ["ple_out"] if model.cfg.d_layer_embed else []
    others = ["recurrence_out", *others] if model.cfg.beside_attention(0) else others
    before = [what for what in others if what in ("recurrence_out", "laurel_out")]
    expected += [f"{one}_{what}" for one in range(at + mid) for what in (others if one < at else before)]
    embeddings = [f"{kind}embed" for kind in ("", "pos_", "token_type_") if f"hook_{kind}embed" in model.hook_dict]
    if model.cfg.positional_embedding_type == "shortformer":
        embeddings.remove("pos_embed")  # queries and keys read it, the stream has none
    assert labels == [*expected, *(["embed"] if model.cfg.embed_norm_type or several else embeddings), "bias"]
    read = cache.get_full_resid_decomposition(layer, **options, apply_ln=True)
    with torch.no_grad():
        assert_close(read.sum(0), model.norm_reading(at, mlp_input)(stream), EXACT)


def neurons_of(model: HookedTransformer, layer: int, expanded: bool) -> list[str]:
    neurons = range(model.cfg.d_mlp_at(layer))
    return [f"L{layer}N{neuron}" for neuron in neurons] if expanded else [f"{layer}_mlp_out"]


def test_rows_of_the_full_decomposition() -> None:
    model, cache, _ = ran("LN")
    stack, labels = cache.get_full_resid_decomposition(2, return_labels=True)
    rows = dict(zip(labels, stack, strict=True))
    z, W_O = cache["blocks.1.attn.hook_z"], model.blocks[1].attn.W_O.detach()
    assert_close(rows["L1H3"], z[:, :, 3] @ W_O[3], EXACT)
    assert_close(rows["L1N4"], neuron_by_hand(model, cache, 1, 4), EXACT)
    assert torch.equal(rows["embed"], cache["hook_embed"])
    assert torch.equal(rows["pos_embed"], cache["hook_pos_embed"])
    biases = [block.attn.b_O + block.mlp.b_out for block in model.blocks[:2]]
    assert_close(rows["bias"], (biases[0] + biases[1]).detach().expand(3, POS, 12), EXACT)
    whole, labels = cache.get_full_resid_decomposition(2, expand_neurons=False, return_labels=True)
    rows = dict(zip(labels, whole, strict=True))
    assert torch.equal(rows["1_mlp_out"], cache["blocks.1.hook_mlp_out"])
    assert_close(rows["bias"], (model.blocks[0].attn.b_O + model.blocks[1].attn.b_O).detach().expand(3, POS, 12), EXACT)


@pytest.mark.parametrize("where", [-1, (1, 4), [4, 1]])
@pytest.mark.parametrize("expand_neurons", [False, True])
def test_the_full_decomposition_of_some_positions(where: Any, expand_neurons: bool) -> None:
    for model, cache, _ in (ran("LN"), ran_in("output-norms")):
        options = dict(expand_neurons=expand_neurons, apply_ln=True, project_output_onto=model.W_U.detach())
        everywhere = cache.get_full_resid_decomposition(**options)
        some = cache.get_full_resid_decomposition(pos_slice=where, **options)
        expected = everywhere[:, :, slice(*where) if isinstance(where, tuple) else where]
        assert_close(some, expected, EXACT)


def test_neurons_of_a_single_prompt_without_batch_axis() -> None:
    for kind in ("LN", "RMS folded"):
        model = built(kind)
        logits, cache = model.run_with_cache(TOKENS[:1], remove_batch_dim=True)
        onto = model.W_U[:, 7].detach()
        for where in (None, -1, [4, 1]):
            options = dict(pos_slice=where, apply_ln=True, project_output_onto=onto)
            expected = logits[0, slice(None) if where is None else where, 7].detach() - model.b_U[7].detach()
            assert_close(cache.get_full_resid_decomposition(**options).sum(0), expected, EXACT)
            assert_close(cache.stack_neuron_results(incl_remainder=True, **options).sum(0), expected, EXACT)


def test_dense_layers_before_experts_have_neurons() -> None:
    model, cache, _ = ran_in("experts")
    assert_close(cache.stack_neuron_results(1)[5], neuron_by_hand(model, cache, 0, 5), EXACT)
    assert_close(cache.get_full_resid_decomposition(1).sum(0), cache["resid_pre", 1], EXACT)


def test_a_cached_result_of_heads_is_what_counts() -> None:
    """It may have been changed by a hook, and z need not be there."""
    model = built("LN")

    def double(result: Tensor, hook: Any) -> Tensor:
        return 2 * result

    names = ["result0", "result1", "result2"]
    with model.hooks([("result1", double)]):
        _, cache = model.run_with_cache(TOKENS, names_filter=names)
    rows = cache.stack_head_results()
    assert_close(rows[4:8], cache["result1"].movedim(2, 0), 0.0)
    _, unchanged = model.run_with_cache(TOKENS, names_filter=names)
    assert_close(rows[4:8], 2 * unchanged["result1"].movedim(2, 0), EXACT)


def test_half_precision_stays() -> None:
    model = build().to(torch.bfloat16)
    _, cache = model.run_with_cache(NEARBY)
    onto = torch.randn(12)
    for stack in (
        cache.get_full_resid_decomposition(apply_ln=True),
        cache.get_full_resid_decomposition(apply_ln=True, project_output_onto=onto),
        cache.stack_neuron_results(2, apply_ln=True, incl_remainder=True),
        cache.stack_head_results(apply_ln=True),
        cache.get_neuron_results(0, project_output_onto=onto),
    ):
        assert stack.dtype == torch.bfloat16
        assert not stack.requires_grad


# -------------------------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("request_of", "said"),
    [
        (lambda cache: cache.decompose_resid(4), r"layer must be 0\.\.3.* got 4"),
        (lambda cache: cache.accumulated_resid(-2), r"layer must be 0\.\.3.* got -2"),
        (lambda cache: cache.decompose_resid(mode="mlps"), "mode must be 'all', 'attn' or 'mlp', got 'mlps'"),
        (lambda cache: cache.stack_head_results(0), "nothing to stack: no part of that kind"),
        (lambda cache: cache.stack_neuron_results(0), "nothing to stack: no part of that kind"),
        (lambda cache: cache.decompose_resid(0, incl_embeds=False), "nothing to stack: no part of that kind"),
        (lambda cache: cache.stack_neuron_results(-2), r"layer must be 0\.\.3.* got -2"),
        (lambda cache: cache.get_neuron_results(3), r"layer must be one of 0\.\.2.* got 3"),
        (lambda cache: cache.get_neuron_results(-4), r"layer must be one of 0\.\.2.* got -4"),
        (lambda cache: cache.get_neuron_results(0, 20), "neuron.* 20 is out of range"),
        (lambda cache: cache.stack_neuron_results(1, project_output_onto=torch.zeros(11)), r"\[d_model=12\].* \[11\]"),
        (lambda cache: cache.stack_neuron_results(1, project_output_onto=torch.zeros(12, 2, 2)), r"got \[12, 2, 2\]"),
        (lambda cache: ran("attn only")[1].stack_neuron_results(), "layer 0 has no MLP"),
        (lambda cache: ran("attn only")[1].get_neuron_results(0), "layer 0 has no MLP"),
        (lambda cache: ran_in("experts")[1].stack_neuron_results(), "layer 1 is a mixture of experts"),
        (lambda cache: ran_in("experts")[1].get_neuron_results(2), "layer 2 is a mixture of experts"),
        (lambda cache: ran_in("experts")[1].get_full_resid_decomposition(), "layer 1 is a mixture of experts"),
        (lambda cache: cache.decompose_resid(3, mlp_input=True), "layer|mlp_input"),
        (lambda cache: cache.accumulated_resid(3, mlp_input=True), "layer|mlp_input"),
        (lambda cache: cache.decompose_resid(pos_slice=6), "position.* 6"),
        (lambda cache: cache.decompose_resid(pos_slice=-7), "position.* -7"),
        (lambda cache: cache.decompose_resid(pos_slice=[0, 6]), "position.* 6"),
    ],
)
def test_bad_requests_are_told(cache: ActivationCache, request_of: Callable[[ActivationCache], Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        request_of(cache)


def test_what_was_not_cached_is_named(plain: HookedTransformer) -> None:
    _, cache = plain.run_with_cache(TOKENS, names_filter="embed")
    with pytest.raises(UnknownHook, match=r"hook_pos_embed.* was not cached in this run"):
        cache.decompose_resid()


# -------------------------------------------------------------------------------------------------- every architecture


@pytest.mark.parametrize("name", SUMS)
def test_parts_sum_in_every_architecture(name: str) -> None:
    model, cache, _ = ran_in(name)
    options = dict(token_type_ids=TYPES) if model.cfg.n_token_types else {}
    for layer in (1, 2, 3):
        stream = our_logits(model, NEARBY, stop_at_layer=layer, **options)
        assert_close(cache.decompose_resid(layer).sum(0), stream, EXACT)
        assert_close(cache.stack_head_results(layer, incl_remainder=True).sum(0), stream, EXACT)


@pytest.mark.parametrize("name", ["output-norms", "only-output-norms", "layer-norms-of-outputs"])
def test_heads_of_a_layer_whose_output_is_normalized(name: str) -> None:
    """Each head goes through that norm with the scale of the run: with b_O and the norm's bias they are attn_out."""
    model = build(**SUMS[name])
    _, cache = model.run_with_cache(NEARBY)
    block, rows = model.blocks[1], cache.stack_head_results(2)[4:8]
    bias = block.attn.b_O.detach()
    if block.ln1_post.kind == "LN":
        bias = bias - bias.mean()
    constant = bias / cache["blocks.1.ln1_post.hook_scale"] * block.ln1_post.gain.detach()
    if block.ln1_post.b is not None:
        constant = constant + block.ln1_post.b.detach()
    assert_close(rows.sum(0) + constant * block.residual_scale, cache["attn_out", 1], EXACT)


def test_the_embeddings_are_one_part_where_they_are_normalized_together() -> None:
    model = build(**SUMS["embed-norm"])
    _, cache = model.run_with_cache(NEARBY, token_type_ids=TYPES)
    parts, labels = cache.decompose_resid(0, return_labels=True)
    assert labels == ["embed"]
    assert torch.equal(parts[0], cache["resid_pre", 0])
    assert build(n_token_types=2).run_with_cache(NEARBY)[1].decompose_resid(0, return_labels=True)[1] == [
        "embed",
        "pos_embed",
        "token_type_embed",
    ]


def test_a_stream_that_is_normalized_after_every_addition_is_no_sum() -> None:
    _, cache = hooked("post-norm").run_with_cache(NEARBY)
    listings = cache.decompose_resid, cache.stack_head_results, cache.stack_neuron_results
    for request_of in (*listings, cache.get_full_resid_decomposition):
        with pytest.raises(BadInput, match=r"post-norm model .* is no sum of what was written"):
            request_of()
    streams, labels = cache.accumulated_resid(return_labels=True)
    assert labels == ["0_pre", "1_pre", "2_pre", "final_post"], "a lens can still read it at each layer"
    assert_close(streams[-1], our_logits(hooked("post-norm"), NEARBY, stop_at_layer=3), EXACT)
