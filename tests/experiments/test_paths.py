"""Path patching agrees with its definition, written out as full passes with plain hooks, and with what is known."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from interp_hooks import (
    HookedTransformer,
    HookedTransformerConfig,
    HookPoint,
    LogitDiff,
    LogProb,
    Site,
    at,
    patch,
)
from interp_hooks.errors import BadInput, HookConflict, MetricError, UnknownHook
from interp_hooks.experiments.paths import path_patch
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, left_alone, put, word_tokenizer
from tests.experiments.gates import linear
from tests.tiny import ARCHITECTURES, assert_close, build, distance, hooked, random_tokens, unchecked_types

DIFF = LogitDiff([4, 11], [7, 2], pos=-1)
MLPS = ("recompute", "freeze")
Sites = Sequence[Site]


# ---------------------------------------------------------------------------------- the definition, as four full passes


def _cached(model: HookedTransformer, tokens: Tensor) -> dict[str, Tensor]:
    """Everything, since the definition does not know what it will need."""
    return model.run_with_cache(tokens, return_cache_object=False)[1]


def _freeze(hook: str, senders: Sites, base: dict[str, Tensor], other: dict[str, Tensor], recompute: bool) -> Any:
    """Put the base run's value, or keep what is recomputed; where this is a sender, put the other run's."""

    def fn(value: Tensor, hook: HookPoint) -> Tensor:
        value = value if recompute else base[hook.name]
        for site in senders:
            if site.hook == hook.name:
                value = put(value, hook.axes, site.select, other[hook.name])
        return value

    return hook, fn


def by_definition(
    model: HookedTransformer,
    base: Tensor,
    other: Tensor,
    senders: Sites,
    receivers: Sites | None,
    mlps: str,
    caches: tuple[dict[str, Tensor], dict[str, Tensor]] | None = None,
) -> Tensor:
    """Logits of the run whose receivers read what reaches them in one with all z (and MLPs) frozen but the senders.

    `caches` are those of both runs, if they are there already.
    """
    of_base, of_other = caches or (_cached(model, base), _cached(model, other))
    noted: dict[str, Tensor] = {}

    def note(value: Tensor, hook: HookPoint) -> None:
        noted[hook.name] = value.clone()

    frozen = []
    for name in model.hook_dict:
        if name.endswith(("hook_z", "hook_attn_out", "hook_mlp_out", "hook_ple_out", "embed")):
            of_mlp = name.endswith(("mlp_out", "ple_out"))
            recompute = not name.endswith("hook_z") and not (of_mlp and mlps == "freeze")
            frozen.append(_freeze(name, senders, of_base, of_other, recompute))
    noting = [(site.hook, note) for site in receivers or []]
    with torch.no_grad():
        logits = model.run_with_hooks(base, fwd_hooks=[*frozen, *noting])
        if receivers is None:
            return logits
        receiving = [
            (site.hook, lambda value, hook, site=site: put(value, hook.axes, site.select, noted[hook.name]))
            for site in receivers
        ]
        return model.run_with_hooks(base, fwd_hooks=receiving)


def _sites_of(model: HookedTransformer) -> tuple[dict[str, Sites], dict[str, Sites | None]]:
    """Senders and receivers of every kind that the model has, some together, some at some positions."""
    senders: dict[str, Sites] = {
        "head": [at("z", 0, head=1)],
        "head of the last layer": [at("z", 2, head=0)],
        "heads at positions": [at("z", 0, head=[0, 2], pos=[1, 4]), at("z", 1, head=1, pos=torch.tensor([3, 1]))],
        "attention and a head": [at("attn_out", 1), at("z", 2, head=2, pos=-1)],
        "embeddings": [at("hook_embed", pos=[0, 3])],
    }
    receivers: dict[str, Sites | None] = {"logits": None}
    if not model.cfg.kv_latent:
        receivers["queries"] = [at("q_input", 1, head=[0, 2], pos=-1), at("q_input", 2, head=1)]
        last = 1 if model.cfg.keys_values_from else 2  # that makes keys
        receivers["keys and values"] = [at("k_input", last, head=0), at("v_input", 1, head=0, pos=torch.tensor([0, 2]))]
    if not model.cfg.attn_only:
        senders["MLP"] = [at("mlp_out", 0)]
        senders["MLPs and a head"] = [at("mlp_out", 0, pos=2), at("z", 0, head=1), at("mlp_out", 1, pos=[-1, 0])]
        receivers["MLPs"] = [at("mlp_in", 0), at("mlp_in", 2, pos=[1, -1])]
    if model.cfg.d_layer_embed:
        senders["embeddings of a layer"] = [at("ple_out", 1, pos=[1, -1])]
        receivers["embeddings of a layer"] = [at("ple_in", 0, pos=2), at("ple_in", 2)]
    return senders, receivers


@pytest.mark.parametrize("mlps", MLPS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_path_is_the_definition(name: str, mlps: Literal["recompute", "freeze"]) -> None:
    """Any sender, any receiver, any architecture: of the pairs of both, one half for each way with MLPs."""
    model = hooked(name)
    if model.cfg.n_streams > 1:
        with pytest.raises(BadInput, match="beside the stream too"):
            path_patch(model, TOKENS, OTHER, DIFF, "z", progress=False)
        return
    clean, corrupt = (random_tokens(2, 5, min(model.cfg.d_vocab, model.cfg.d_vocab_out), seed) for seed in range(2))
    caches = _cached(model, clean), _cached(model, corrupt)
    senders, receivers = _sites_of(model)
    moved = 0.0
    for number, (label, received) in enumerate(receivers.items()):
        result = path_patch(
            model, clean, corrupt, DIFF, senders, received or "logits", mlps=mlps, direction="noise", progress=False
        )
        assert result.axes == {"sender": list(senders)}
        half = slice((number + MLPS.index(mlps)) % 2, None, 2)
        for ours, (sender, sent) in list(zip(result.values, senders.items(), strict=True))[half]:
            expected = DIFF(by_definition(model, clean, corrupt, sent, received, mlps, caches))
            assert distance(ours, expected) < RTOL, f"{sender} to {label}"
            moved += float((ours - result.baselines["clean"]).abs().max() > 1e-6)
    assert moved > len(senders) / 2, "most paths do something, or nothing is tested"


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("receivers", ["logits", [at("k_input", 2, head=1), at("mlp_in", 1)]], ids=str)
def test_a_sweep_is_every_path(receivers: Any, direction: Literal["denoise", "noise"]) -> None:
    model = hooked("llama-tied-ungrouped")
    clean, corrupt = random_tokens(2, 5), random_tokens(2, 5, seed=1)
    base, other = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    result = path_patch(model, clean, corrupt, DIFF, receivers=receivers, direction=direction, progress=False)
    assert result.axes == {"layer": [0, 1, 2], "head": [0, 1, 2, 3]}
    caches = _cached(model, base), _cached(model, other)
    for layer, head in itertools.product(range(3), range(4)):
        received = None if receivers == "logits" else receivers
        logits = by_definition(model, base, other, [at("z", layer, head=head)], received, "recompute", caches)
        assert_close(result.values[layer, head], DIFF(logits), RTOL)
    with torch.no_grad():
        assert_close(result.baselines["clean"], DIFF(model(clean)), RTOL)
        assert_close(result.baselines["corrupt"], DIFF(model(corrupt)), RTOL)
    assert result.scale == (("corrupt", "clean") if direction == "denoise" else ("clean", "corrupt"))


@pytest.mark.parametrize("receivers", ["logits", [at("v_input", 2)]], ids=str)
def test_other_sweeps_other_metrics_and_little_memory(receivers: Any) -> None:
    """Labels stand beside the path they name; cells that don't fit together are computed one after the other."""
    model = build()

    def every_logit(logits: Tensor) -> Tensor:
        return logits.pow(2).mean((1, 2))

    for metric in (every_logit, LogProb([3, 5], pos=torch.tensor([2, -1]))):
        arguments: dict[str, Any] = dict(receivers=receivers, progress=False)
        by_pos = path_patch(
            model, TOKENS, OTHER, metric, over=("pos", "head", "layer"), layers=[1, 0], max_memory=1, **arguments
        )
        assert list(by_pos.axes) == ["pos", "head", "layer"]
        for pos, head, place in [(0, 1, 0), (4, 3, 1), (2, 0, 0)]:
            one = path_patch(model, TOKENS, OTHER, metric, at("z", [1, 0][place], head=head, pos=pos), **arguments)
            assert one.values.shape == (2,)
            assert_close(by_pos.values[pos, head, place], one.values, RTOL)
        by_mlp = path_patch(model, TOKENS, OTHER, metric, "mlp_out", over=("layer",), **arguments)
        assert by_mlp.values.shape == (3, 2)


def _with_words(side: str) -> HookedTransformer:
    model = HookedTransformer(build().cfg, word_tokenizer("a", "b", "c", "yes", "no"), default_padding_side=side)
    model.load_state_dict(build().state_dict())
    return model


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("receivers", ["logits", [at("q_input", 2, head=1)]], ids=str)
def test_pairs_of_several_lengths(side: str, receivers: Any) -> None:
    """Each pair gives what it gives alone, read at its own last token."""
    model = _with_words(side)
    clean, corrupt, answer, wrong = ["a b c", "c"], ["b b a", "a"], ["yes", "no"], ["no", "yes"]
    both = path_patch(model, clean, corrupt, LogitDiff(answer, wrong), receivers=receivers, progress=False)
    for i in range(2):
        metric = LogitDiff(answer[i], wrong[i])
        alone = path_patch(model, clean[i], corrupt[i], metric, receivers=receivers, progress=False)
        assert_close(both.values[..., i], alone.values[..., 0], RTOL)


# -------------------------------------------------------------------------------------------------- what must be so


PATHS: list[tuple[Any, Any]] = [
    ("z", "logits"),
    ("z", [at("q_input", 1), at("v_input", 2, head=0)]),
]


@pytest.mark.parametrize("mlps", MLPS)
@pytest.mark.parametrize("path", PATHS, ids=str)
def test_the_same_prompt_sends_nothing_new(path: tuple[Any, Any], mlps: Literal["recompute", "freeze"]) -> None:
    result = path_patch(hooked("output-norms"), TOKENS, TOKENS.clone(), DIFF, *path, mlps=mlps, progress=False)
    assert_close(result.values, result.baselines["clean"].expand_as(result.values), RTOL)


@pytest.mark.parametrize("name", ["gpt2", "neox", "post-norm"])
def test_a_sender_that_comes_too_late_changes_nothing(name: str) -> None:
    """Not before the layer, and, in a parallel block, not before the MLP of its own layer."""
    model, tokens = hooked(name), (random_tokens(2, 5, 19), random_tokens(2, 5, 19, seed=1))
    result = path_patch(model, *tokens, DIFF, receivers=[at("k_input", 1)], progress=False)
    changed = (result.values - result.baselines["corrupt"]).abs().amax((1, 2)) > 1e-6
    assert changed.tolist() == [True, False, False]
    result = path_patch(model, *tokens, DIFF, receivers=[at("mlp_in", 1)], progress=False)
    changed = (result.values - result.baselines["corrupt"]).abs().amax((1, 2)) > 1e-6
    assert changed.tolist() == [True, name != "neox", False]


@pytest.mark.parametrize("name", ["gpt2", "attn-only", "neox", "experts", "output-norms"])
def test_from_the_last_layer_it_is_activation_patching(name: str) -> None:
    model, tokens = hooked(name), (random_tokens(2, 5, 19), random_tokens(2, 5, 19, seed=1))
    paths = path_patch(model, *tokens, DIFF, layers=[2], progress=False)
    assert_close(
        paths.values, patch(model, *tokens, DIFF, "z", over=("head",), layers=[2], progress=False).values, RTOL
    )


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "alibi-windows", "post-norm", "only-output-norms", "latent"])
def test_everything_sent_is_the_other_run(name: str) -> None:
    """Embeddings and all heads, and MLPs unless they follow by themselves."""
    model, tokens = hooked(name), (random_tokens(2, 5, 19), random_tokens(2, 5, 19, seed=1))
    embeddings = [at(hook) for hook in ("hook_embed", "hook_pos_embed") if hook in model.hook_dict]
    heads, mlps = [at("z", layer) for layer in range(3)], [at("mlp_out", layer) for layer in range(3)]
    recomputed = path_patch(model, *tokens, DIFF, embeddings + heads, progress=False)
    frozen = path_patch(model, *tokens, DIFF, embeddings + heads + mlps, mlps="freeze", progress=False)
    for whole in (recomputed, frozen):
        assert whole.axes == {}
        assert_close(whole.values, whole.baselines["clean"], RTOL)
        assert_close(whole.recovered_fraction, torch.tensor(1.0), 1e-9)


def test_without_norm_the_direct_effects_add_up() -> None:
    model = build(normalization_type=None)
    heads = {f"{layer}.{head}": at("z", layer, head=head) for layer in range(3) for head in range(4)}
    mlps = {f"mlp {layer}": at("mlp_out", layer) for layer in range(3)}
    direct = path_patch(
        model, TOKENS, OTHER, DIFF, {"embed": at("hook_embed")} | heads | mlps, mlps="freeze", progress=False
    )
    corrupt = direct.baselines["corrupt"]
    assert_close((direct.values - corrupt).sum(0), direct.baselines["clean"] - corrupt, RTOL)


def test_a_linear_model_is_the_sum_of_its_paths() -> None:
    """A head of layer 1 acts on the logits directly and through the values of the heads of layer 2."""
    model = linear()
    whole = patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), layers=[1], progress=False)
    corrupt = whole.baselines["corrupt"]
    direct = path_patch(model, TOKENS, OTHER, DIFF, layers=[1], progress=False).values - corrupt
    through = [
        path_patch(model, TOKENS, OTHER, DIFF, "z", at("v_input", 2, head=head), layers=[1], progress=False).values
        for head in range(4)
    ]
    assert_close(direct + sum(one - corrupt for one in through), whole.values - corrupt, 1e-9)
    queries = path_patch(model, TOKENS, OTHER, DIFF, "z", [at("q_input", 2), at("k_input", 1)], progress=False)
    assert_close(queries.values, corrupt.expand_as(queries.values), RTOL)  # all scores are equal anyway


# ----------------------------------------------------------------------------------------------- a model known by heart


def micro() -> HookedTransformer:
    """Two layers of two heads, a stream of two numbers, one position: head h writes W[h] * x with W = [[1, 2], [3, 4]].

    Token 0 is (1, 1) and token 1 (-1, -1); the logits are the stream, (25, 49) for token 0.
    """
    cfg = HookedTransformerConfig(
        n_layers=2,
        d_model=2,
        n_ctx=1,
        d_vocab=2,
        n_heads=2,
        d_head=2,
        attn_only=True,
        normalization_type=None,
        positional_embedding_type="none",
        dtype=torch.float64,
    )
    model = HookedTransformer(cfg)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.embed.W_E.copy_(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
        model.unembed.W_U.copy_(torch.eye(2))
        for block in model.blocks:
            block.attn.W_V.copy_(torch.eye(2).expand(2, 2, 2))
            block.attn.W_O.copy_(torch.diag_embed(torch.tensor([[1.0, 2.0], [3.0, 4.0]])))
    return model


def test_the_micro_model() -> None:
    """Numbers worked out on paper; in a linear model, edges that share no part add up, here to (-13, -25)."""
    model, clean, corrupt = micro(), torch.tensor([[0]]), torch.tensor([[1]])

    def logits(senders: Sites, receivers: Any = "logits") -> list[float]:
        which = [lambda out, i=i: out[:, -1, i] for i in range(2)]
        results = [path_patch(model, clean, corrupt, one, senders, receivers, progress=False) for one in which]
        assert [float(result.baselines["clean"]) for result in results] == [25, 49]
        assert [float(result.baselines["corrupt"]) for result in results] == [-25, -49]
        return [float(result.values) for result in results]

    assert logits([at("z", 0, head=1)]) == [-19, -41]
    assert logits([at("z", 0, head=0)], [at("v_input", 1, head=1)]) == [-25 + 6, -49 + 16]
    assert logits([at("z", 0, head=0)]) == [-25 + 2, -49 + 4]
    assert logits([at("hook_embed")], [at("v_input", 0, head=0)]) == [-25 + 10, -49 + 28]
    assert logits([at("hook_embed")], [at("v_input", 0, head=0), at("v_input", 1, head=1)]) == [-25 + 10, -49 + 20]
    assert logits([at("z", 0, head=0)], [at("q_input", 1), at("k_input", 1)]) == [-25, -49]


# --------------------------------------------------------------------------------------------------------------- cheap


@contextmanager
def blocks_counted(model: HookedTransformer) -> Iterator[list[int]]:
    """How many prompts pass the attention of each layer, in the order in which they do."""
    rows: list[int] = []
    handles = [
        block.attn.register_forward_hook(lambda attention, inputs, out: rows.append(len(out))) for block in model.blocks
    ]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


def test_to_the_logits_takes_the_two_recordings_alone() -> None:
    with blocks_counted(model := build()) as rows:
        path_patch(model, TOKENS, OTHER, DIFF, progress=False)
    assert rows == [2] * 6


def test_only_what_is_read_is_recomputed() -> None:
    """The MLPs after each head: of 4 heads of layer 0, 8 of layers 0 and 1, ...; at the positions that are read."""
    model, shapes = build(), []
    handles = [
        block.mlp.register_forward_hook(lambda mlp, x, out: shapes.append(out.shape[:2])) for block in model.blocks
    ]
    try:
        path_patch(model, TOKENS, OTHER, DIFF, progress=False)
        assert shapes[6:] == [(8, 1), (16, 1), (24, 1)]
        shapes.clear()
        at_two = [at("q_input", 2, head=1, pos=torch.tensor([4, 2])), at("k_input", 2, head=1, pos=-1)]
        path_patch(model, TOKENS, OTHER, DIFF, receivers=at_two, progress=False)
        assert [shape for shape in shapes if shape[1] == 2] == [(8, 2), (16, 2)]
        shapes.clear()
        path_patch(model, TOKENS, OTHER, DIFF, mlps="freeze", progress=False)
        assert shapes[6:] == []
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------------------------------------------------- mistakes

MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "mlps": (dict(mlps="frozen"), BadInput, "'recompute' or 'freeze', got 'frozen'"),
    "direction": (dict(direction="both"), BadInput, "'denoise' or 'noise'"),
    "no senders": (dict(senders=[]), BadInput, "senders must be one or more sites"),
    "no senders at all": (dict(senders={}), BadInput, "the mapping is empty"),
    "names for sites": (dict(senders=["z0"]), BadInput, r"senders must be .*a list of Sites.*\['z0'\]"),
    "a pattern sends nothing": (dict(senders="pattern"), BadInput, "hook_pattern cannot be a sender.*z, attn_out"),
    "unknown sender": (dict(senders=at("zz", 0)), UnknownHook, "zz"),
    "layer": (dict(layers=[3]), BadInput, "layer 3 is out of range"),
    "sender's head": (dict(senders=at("z", 0, head=4)), BadInput, "head=4 is out of range"),
    "sender's axis": (dict(senders=at("attn_out", 0, head=1)), BadInput, "no 'head' to select"),
    "receiver": (dict(receivers="resid_post"), BadInput, "receivers must be 'logits', a Site or a list of Sites"),
    "no receiver": (dict(receivers=[]), BadInput, "receivers other than 'logits' must be"),
    "q is no stream": (dict(receivers=at("q", 1)), BadInput, "hook_q cannot be a receiver.*q_input"),
    "receiver's layer": (dict(receivers=at("q_input", 5)), UnknownHook, "blocks.5.hook_q_input"),
    "receiver's head": (dict(receivers=at("q_input", 2, head=9)), BadInput, "head=9 is out of range"),
    "lengths": (dict(corrupt=OTHER[:, :4]), BadInput, "prompt 0 has 5 tokens in clean but 4 in corrupt"),
    "position": (dict(metric=LogProb([1, 2], pos=9)), BadInput, "position 9 is out of range"),
    "nan": (dict(metric=lambda logits: logits[:, 0, 0] * torch.nan), MetricError, "nan"),
    "no tensor": (dict(metric=lambda logits: 3.0), MetricError, "must return a tensor"),
    "too many numbers": (dict(metric=lambda logits: logits[:, 0]), MetricError, r"got shape \[2, 19\]"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_told_and_leave_the_model_alone(what: str) -> None:
    changes, error, message = MISTAKES[what]
    arguments: dict[str, Any] = dict(clean=TOKENS, corrupt=OTHER, metric=DIFF, progress=False) | changes
    model = build()
    with left_alone(model), unchecked_types(), pytest.raises(error, match=message):
        path_patch(model, **arguments)


def test_heads_without_inputs_of_their_own() -> None:
    with pytest.raises(BadInput, match="low-rank summary of the stream that they share"):
        path_patch(hooked("latent"), TOKENS, OTHER, DIFF, receivers=at("k_input", 1), progress=False)


def test_hooks_would_be_passed_by() -> None:
    model = build()
    with model.hooks(fwd_hooks=[("mlp_out1", lambda value, hook: 0 * value)]):
        with left_alone(model), pytest.raises(HookConflict, match=r"blocks\.1\.hook_mlp_out is hooked"):
            path_patch(model, TOKENS, OTHER, DIFF, progress=False)


def test_one_number_for_all_prompts() -> None:
    result = path_patch(build(), TOKENS, OTHER, lambda logits: logits[:, -1, 0].mean(), progress=False)
    assert result.values.shape == (3, 4, 1)
    assert result.baselines["clean"].shape == (1,)
