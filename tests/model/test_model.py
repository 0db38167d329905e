"""The forward pass and its arguments, initial weights, and that a mistake is told and leaves the model as it was."""

import copy
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interp_hooks import HookedTransformer, HookedTransformerConfig, HookPoint, KeyValueCache
from interp_hooks.corpus import lm_accuracy
from interp_hooks.errors import (
    BadHookValue,
    BadInput,
    CheckpointError,
    ConfigError,
    InterpHooksError,
    NoTokenizer,
    TokenError,
    UnknownHook,
)
from interp_hooks.hooks import get_act_name
from interp_hooks.model import Output, lm_cross_entropy_loss
from tests.model.test_tokens import word_tokenizer
from tests.tiny import (
    ARCHITECTURES,
    CUSTOM,
    assert_close,
    build,
    convert,
    hooked,
    our_logits,
    random_tokens,
    redraw,
    shared_hf,
    unchecked_types,
)

# Sums of a few dozen float64 numbers in another order.
EXACT = 1e-10

SMALL = dict(n_layers=2, d_model=8, n_ctx=6, d_vocab=11, n_heads=2, act_fn="relu", d_mlp=12)


# -------------------------------------------------------------------------------------------------------- return types


@pytest.fixture(scope="module")
def square() -> HookedTransformer:
    """A model whose output vocabulary is its input's, as a loss needs."""
    return build(d_vocab_out=23)


def test_the_loss_is_the_mean_of_next_token_losses(square: HookedTransformer, tokens: Tensor) -> None:
    logits = our_logits(square, tokens)
    expected = -logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    with torch.no_grad():
        assert_close(square(tokens, return_type="loss", loss_per_token=True), expected, EXACT)
        assert_close(square(tokens, return_type="loss"), expected.mean(), EXACT)
        both = square(tokens, return_type="both")
    assert isinstance(both, Output)
    assert torch.equal(both.logits, logits)
    assert_close(both.loss, expected.mean(), EXACT)


def test_a_pass_without_output(square: HookedTransformer, tokens: Tensor) -> None:
    output, cache = square.run_with_cache(tokens, return_type=None)
    assert output is None
    assert "ln_final.hook_normalized" in cache
    assert "unembed.hook_out" not in cache


def test_padding_is_not_in_the_loss(square: HookedTransformer, tokens: Tensor) -> None:
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    with torch.no_grad():
        loss = square(tokens, return_type="loss", attention_mask=mask)
        first, second = square(tokens[:1], "loss", True), square(tokens[1:, :4], "loss", True)
    assert_close(loss, torch.cat((first, second), 1).mean(), EXACT)


def test_the_loss_of_half_precision_logits_is_float32() -> None:
    logits = torch.randn(1, 4, 7).bfloat16()
    loss = lm_cross_entropy_loss(logits, torch.tensor([[1, 2, 3, 4]]))
    assert loss.dtype == torch.float32
    assert_close(loss, lm_cross_entropy_loss(logits.float(), torch.tensor([[1, 2, 3, 4]])), 1e-6)


def test_uniform_logits_lose_log_of_the_vocabulary() -> None:
    loss = float(lm_cross_entropy_loss(torch.zeros(2, 5, 11), torch.zeros(2, 5, dtype=torch.long)))
    assert math.isclose(loss, math.log(11), rel_tol=1e-6)  # float32


# ----------------------------------------------------------------------------------------------- starting and stopping


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -3])
def test_stopping_and_starting_again_is_one_pass(plain: HookedTransformer, tokens: Tensor, layer: int) -> None:
    residual = our_logits(plain, tokens, stop_at_layer=layer)
    _, cache = plain.run_with_cache(tokens)
    at = layer if layer >= 0 else layer + 3
    expected = cache["resid_pre", at] if at < 3 else cache["resid_post", -1]
    assert_close(residual, expected, EXACT)
    assert torch.equal(our_logits(plain, residual, start_at_layer=layer), our_logits(plain, tokens))


def test_a_middle_part(plain: HookedTransformer, tokens: Tensor) -> None:
    before, after = (our_logits(plain, tokens, stop_at_layer=layer) for layer in (1, 2))
    assert torch.equal(our_logits(plain, before, start_at_layer=1, stop_at_layer=2), after)


def test_a_late_start_knows_the_tokens_if_told(square: HookedTransformer, tokens: Tensor) -> None:
    residual = our_logits(square, tokens, stop_at_layer=2)
    with torch.no_grad():
        assert torch.equal(square(residual, "loss", start_at_layer=2, tokens=tokens), square(tokens, "loss"))


@pytest.mark.parametrize("fields", [{}, dict(positional_embedding_type="rotary")])
def test_a_late_start_takes_the_padding(fields: dict[str, Any], tokens: Tensor) -> None:
    model, mask = build(**fields), torch.ones_like(tokens)
    mask[0, :3] = 0
    residual = our_logits(model, tokens, stop_at_layer=1, attention_mask=mask)
    late = our_logits(model, residual, start_at_layer=1, attention_mask=mask)
    assert torch.equal(late, our_logits(model, tokens, attention_mask=mask))


@pytest.mark.parametrize("where", [-1, 2, [0, 3], [-1, -7], torch.tensor([1, 2]), torch.tensor([[0, 3], [6, -1]])])
def test_only_some_positions_are_unembedded(plain: HookedTransformer, tokens: Tensor, where: Any) -> None:
    everything, some = our_logits(plain, tokens), our_logits(plain, tokens, logits_pos=where)
    index = torch.as_tensor(where)
    for row in range(2):
        expected = everything[row, index[row] if index.ndim == 2 else index.reshape(-1)]
        assert_close(some[row], expected, EXACT)


def test_a_mask_of_ones_changes_nothing(plain: HookedTransformer, tokens: Tensor) -> None:
    for ones in (torch.ones_like(tokens), torch.ones_like(tokens).bool(), torch.ones_like(tokens).float()):
        assert torch.equal(our_logits(plain, tokens, attention_mask=ones), our_logits(plain, tokens))


def test_one_row_of_tokens_is_a_batch_of_one(plain: HookedTransformer, tokens: Tensor) -> None:
    assert torch.equal(our_logits(plain, tokens[0]), our_logits(plain, tokens[:1]))
    assert torch.equal(our_logits(plain, tokens.int()), our_logits(plain, tokens))


def test_rows_do_not_see_each_other(plain: HookedTransformer, tokens: Tensor) -> None:
    assert_close(our_logits(plain, tokens)[1:], our_logits(plain, tokens[1:]), EXACT)


@torch.no_grad()
def test_arguments_come_in_the_order_of_the_field(square: HookedTransformer, tokens: Tensor) -> None:
    stream, mask = square(tokens, stop_at_layer=1), torch.ones_like(tokens)
    by_name = square(stream, "loss", start_at_layer=1, tokens=tokens)
    assert torch.equal(square(stream, "loss", False, None, None, 1, tokens, None, mask, None, None), by_name)
    logits = square(tokens)
    assert torch.equal(square.loss_fn(logits, tokens, mask, per_token=True), square(tokens, "loss", True))


# ---------------------------------------------------------------------------------------------------------- shortformer


def shortformer_by_hand(model: HookedTransformer, tokens: Tensor, W_pos: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The stream after the last block, and every pattern, from the weights alone; norms have no gain."""
    pos, scale = tokens.shape[1], model.cfg.d_head**0.5
    above = torch.ones(pos, pos).triu(1).bool()

    def normalized(x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    stream, patterns = model.embed.W_E[tokens], []
    for block in model.blocks:
        attn, mlp, plain = block.attn, block.mlp, normalized(stream)
        placed = plain + W_pos[:pos]
        q = torch.einsum("bpd,hdk->bhpk", placed, attn.W_Q) + attn.b_Q[:, None]
        k = torch.einsum("bpd,hdk->bhpk", placed, attn.W_K) + attn.b_K[:, None]
        v = torch.einsum("bpd,hdk->bhpk", plain, attn.W_V) + attn.b_V[:, None]
        patterns.append((q @ k.mT / scale).masked_fill(above, -torch.inf).softmax(-1))
        stream = stream + torch.einsum("bhpk,hkd->bpd", patterns[-1] @ v, attn.W_O) + attn.b_O
        mid = torch.nn.functional.gelu(normalized(stream) @ mlp.W_in + mlp.b_in)
        stream = stream + normalized(mid) @ mlp.W_out + mlp.b_out
    return stream, patterns


@pytest.fixture
def shortformer() -> HookedTransformer:
    return build(positional_embedding_type="shortformer", act_fn="gelu_ln", normalization_type="LNPre")


@torch.no_grad()
def test_positions_beside_the_stream(shortformer: HookedTransformer, tokens: Tensor) -> None:
    """Added to what queries and keys read, after the norm, and to nothing else."""
    expected, patterns = shortformer_by_hand(shortformer, tokens, shortformer.W_pos)
    _, cache = shortformer.run_with_cache(tokens)
    assert_close(cache["resid_post", -1], expected, EXACT)
    for layer, pattern in enumerate(patterns):
        assert_close(cache["pattern", layer], pattern, EXACT)
    assert_close(cache["resid_pre", 0], cache["hook_embed"], EXACT)
    assert_close(cache["hook_pos_embed"], shortformer.W_pos[:7].expand(2, -1, -1), EXACT)
    assert not [name for name in shortformer.hook_dict if "attn_input" in name], "it would never fire"
    elsewhere = shortformer_by_hand(shortformer, tokens, 2 * shortformer.W_pos)[0]
    doubled = [("hook_pos_embed", lambda value, hook: 2 * value)]
    stopped = shortformer.run_with_hooks(tokens, fwd_hooks=doubled, stop_at_layer=3)
    assert_close(stopped, elsewhere, EXACT)
    ungrouped = [
        ("blocks.1.hook_q_input", lambda value, hook: value),
        ("blocks.1.hook_k_input", lambda value, hook: None),
    ]
    assert_close(shortformer.run_with_hooks(tokens, fwd_hooks=ungrouped, stop_at_layer=3), expected, EXACT)


@torch.no_grad()
def test_a_late_start_knows_its_positions_or_is_given_some(shortformer: HookedTransformer, tokens: Tensor) -> None:
    stream = shortformer(tokens, stop_at_layer=1)
    assert torch.equal(shortformer(stream, start_at_layer=1), shortformer(tokens))
    given = shortformer.W_pos[:7][None]
    assert torch.equal(shortformer(stream, start_at_layer=1, shortformer_pos_embed=given), shortformer(tokens))
    zero = [("hook_pos_embed", lambda value, hook: 0 * value)]
    start = shortformer.run_with_hooks(tokens, fwd_hooks=zero, stop_at_layer=1)
    assert_close(
        shortformer(start, start_at_layer=1, shortformer_pos_embed=0 * given),
        shortformer.run_with_hooks(tokens, fwd_hooks=zero),
        EXACT,
    )
    cache = KeyValueCache()
    parts = [shortformer(tokens[:, :4], past_kv_cache=cache), shortformer(tokens[:, 4:], past_kv_cache=cache)]
    assert_close(torch.cat(parts, 1), shortformer(tokens), EXACT)
    for model, options, said in (
        (shortformer, dict(shortformer_pos_embed=given), "for passes with start_at_layer="),
        (
            shortformer,
            dict(start_at_layer=1, shortformer_pos_embed=given[:, 1:]),
            r"must be \[2, 7, 12\], got \[1, 6, 12\]",
        ),
        (build(), dict(start_at_layer=1, shortformer_pos_embed=given), "needs a model with positional_embedding_type"),
    ):
        with unchecked_types(), pytest.raises(BadInput, match=said):
            model(stream if "start_at_layer" in options else tokens, **options)


# ------------------------------------------------------------------------------------------------- what it is made of


def test_a_config_may_be_a_dict() -> None:
    assert HookedTransformer(SMALL).cfg == HookedTransformerConfig(**SMALL)
    with pytest.raises(ConfigError, match="no field 'n_layer'"):
        HookedTransformer(SMALL | dict(n_layer=2))


def test_dtype_and_device_follow_the_model() -> None:
    model = HookedTransformer(SMALL | dict(dtype="float64"))
    assert model.dtype == model.cfg.dtype == torch.float64
    assert model.to(torch.bfloat16).cfg.dtype == model.dtype == torch.bfloat16
    assert model(torch.tensor([[1, 2]])).dtype == torch.bfloat16
    assert model.to("meta").cfg.device == model.device == torch.device("meta")


def test_moves_return_the_model_and_print_nothing(own: HookedTransformer, capsys: pytest.CaptureFixture[str]) -> None:
    assert own.cpu() is own.to("cpu", print_details=True) is own.to(torch.float32) is own.double() is own
    assert own.cfg.dtype == torch.float64
    assert capsys.readouterr().out == ""
    if not torch.backends.mps.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            own.mps()


def test_weights_may_stay_on_the_cpu() -> None:
    model = HookedTransformer(SMALL | dict(device="meta"), move_to_device=False)
    assert model.device == model.cfg.device == torch.device("cpu")


def test_the_vocabulary_may_be_the_tokenizers(tmp_path: Path) -> None:
    """Given as an object, or by name."""
    sizes, tokenizer = SMALL | dict(d_vocab=-1), word_tokenizer()
    with pytest.raises(ConfigError, match="a tokenizer if d_vocab is not provided: give d_vocab="):
        HookedTransformer(sizes)
    tokenizer.save_pretrained(tmp_path)
    expected = max(tokenizer.get_vocab().values()) + 1
    for model in (HookedTransformer(sizes, tokenizer), HookedTransformer(sizes | dict(tokenizer_name=str(tmp_path)))):
        assert (model.cfg.d_vocab, model.cfg.d_vocab_out, len(model.W_E)) == (expected,) * 3
        assert model.to_tokens("the cat").tolist() == HookedTransformer(sizes, tokenizer).to_tokens("the cat").tolist()
    with pytest.raises(CheckpointError, match=r"the tokenizer .*nowhere.* cannot be read"):
        HookedTransformer(sizes | dict(tokenizer_name=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_pickled_model_is_the_same(name: str) -> None:
    model, tokens = hooked(name), random_tokens(d_vocab=19)
    for twin in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert twin.cfg == model.cfg
        assert list(twin.hook_dict) == list(model.hook_dict)
        assert twin.hook_dict["hook_embed"] is twin.hook_embed is not model.hook_embed
        assert_close(our_logits(twin, tokens), our_logits(model, tokens), 1e-12)


COMPILED = """
import torch
from interp_hooks import HookedTransformer
sizes = dict(n_layers=1, d_model=16, n_ctx=16, d_vocab=29, n_heads=4, act_fn="gelu", seed=0)
kinds = [{}, dict(positional_embedding_type="rotary", n_key_value_heads=2, gated_mlp=True, normalization_type="RMS")]
tokens = torch.arange(10).reshape(2, 5)
for kind in kinds:
    model = HookedTransformer(sizes | kind).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        logits, loss = compiled(tokens, return_type="both")
        assert torch.equal(logits, model(tokens))
        assert torch.equal(loss, model(tokens, return_type="loss"))
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
"""


@pytest.mark.skipif(not torch._dynamo.is_dynamo_supported(), reason="torch.compile does not know this Python")
def test_an_unhooked_model_compiles_in_one_graph() -> None:
    """In a process of its own, since the type checks of these tests cannot be compiled."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[-3000:]


@pytest.mark.parametrize("fields", [{}, dict(gated_mlp=True, n_key_value_heads=2), dict(attn_only=True)])
def test_a_state_dict_makes_the_same_model(fields: dict[str, Any], tokens: Tensor) -> None:
    model = build(**fields)
    twin = build(seed=9, **fields)
    assert not torch.equal(our_logits(twin, tokens), our_logits(model, tokens))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(our_logits(twin, tokens), our_logits(model, tokens))


def test_a_copy_is_independent(own: HookedTransformer, tokens: Tensor) -> None:
    before, twin = our_logits(own, tokens), copy.deepcopy(own)
    redraw(twin, seed=5)
    assert torch.equal(our_logits(own, tokens), before)


def test_every_parameter_gets_a_gradient(own: HookedTransformer, tokens: Tensor) -> None:
    """But key biases, which no output depends on, where positions are not rotated."""
    own(tokens).square().sum().backward()
    for name, weight in own.named_parameters():
        assert weight.grad is not None, name
        if not name.endswith("b_K"):
            assert bool(weight.grad.abs().sum() > 1e-9), name


# ---------------------------------------------------------------------------------------------------------- collecting


@pytest.mark.parametrize(
    ("flag", "names"),
    [
        ("set_use_attn_result", {"attn.hook_result"}),
        ("set_use_split_qkv_input", {"hook_q_input", "hook_k_input", "hook_v_input"}),
        ("set_use_attn_in", {"hook_attn_in"}),
        ("set_use_hook_mlp_in", {"hook_mlp_in"}),
    ],
)
def test_flags_change_what_is_collected_and_nothing_else(
    own: HookedTransformer, tokens: Tensor, flag: str, names: set[str]
) -> None:
    before, (_, cache) = our_logits(own, tokens), own.run_with_cache(tokens)
    getattr(own, flag)(True)
    _, more = own.run_with_cache(tokens)
    assert {name.removeprefix("blocks.1.") for name in set(more) - set(cache) if "blocks.1." in name} == names
    assert torch.equal(our_logits(own, tokens), before)
    getattr(own, flag)(False)
    assert list(own.run_with_cache(tokens)[1]) == list(cache)


def test_a_flag_of_the_config_is_that_switch(tokens: Tensor) -> None:
    """And what has no such hook says so."""
    model = build(use_attn_result=True, use_split_qkv_input=True)
    _, cache = model.run_with_cache(tokens)
    assert {"blocks.1.attn.hook_result", "blocks.1.hook_k_input"} <= set(cache)
    assert "blocks.1.hook_mlp_in" not in cache
    model.set_use_attn_result(False)
    assert not model.cfg.use_attn_result
    assert pickle.loads(pickle.dumps(model)).cfg.use_split_qkv_input
    for fields, switch, missing in (
        (dict(n_key_value_heads=2), "set_use_attn_in", "hook_attn_in"),
        (dict(attn_only=True), "set_use_hook_mlp_in", "hook_mlp_in"),
    ):
        with pytest.raises(BadInput, match=f"this model has no {missing}"):
            getattr(build(**fields), switch)(True)
        getattr(build(**fields), switch)(False)


def test_tokens_can_be_hooked_where_the_config_says_so(tokens: Tensor) -> None:
    model = build(use_hook_tokens=True, d_vocab_out=23)
    logits, cache = model.run_with_cache(tokens)
    assert torch.equal(cache["hook_tokens"], tokens)
    other = tokens.roll(1, dims=0)
    swapped = model.run_with_hooks(tokens, fwd_hooks=[("hook_tokens", lambda value, hook: other)], return_type="both")
    assert_close(swapped.logits, our_logits(model, other), EXACT)
    assert_close(swapped.loss, model(other, return_type="loss"), EXACT)
    assert "hook_tokens" not in build().hook_dict
    assert_close(logits, our_logits(build(d_vocab_out=23), tokens), EXACT)


def test_a_filter_collects_whatever_it_names(plain: HookedTransformer, tokens: Tensor) -> None:
    _, cache = plain.run_with_cache(tokens, names_filter="result1")
    assert list(cache) == ["blocks.1.attn.hook_result"]


def test_cached_gradients(own: HookedTransformer, tokens: Tensor) -> None:
    """Of a pass that gives a scalar, beside the activations."""
    square = build(d_vocab_out=23)
    _loss, cache = square.run_with_cache(tokens, return_type="loss", names_filter=["resid_pre1", "z2"], incl_bwd=True)
    names = {"blocks.1.hook_resid_pre", "blocks.2.attn.hook_z"}
    assert set(cache) == names | {f"{name}_grad" for name in names}
    residual = cache["resid_pre1"].clone().requires_grad_()
    again = square(residual, return_type="loss", start_at_layer=1, tokens=tokens)
    (gradient,) = torch.autograd.grad(again, residual)
    assert_close(cache["blocks.1.hook_resid_pre_grad"], gradient, EXACT)


# ------------------------------------------------------------------------------------------------------------ mistakes

TOKENS = random_tokens(batch=2, pos=5, d_vocab=23)


def _explodes(value: Tensor, hook: HookPoint) -> None:
    raise ZeroDivisionError("in a hook")


def run(**options: Any) -> Callable[[HookedTransformer], object]:
    return lambda model: model(TOKENS, **options)


def with_hook(name: Any, hook: Callable[..., Any]) -> Callable[[HookedTransformer], object]:
    return lambda model: model.run_with_hooks(
        TOKENS, fwd_hooks=[("hook_embed", lambda value, hook: 0 * value), (name, hook)]
    )


MISTAKES: dict[str, tuple[Callable[[HookedTransformer], object], type[Exception], str]] = {
    "misspelt hook": (
        with_hook("blocks.0.hook_resid_per", lambda value, hook: None), UnknownHook,
        "no hook point 'blocks.0.hook_resid_per'. Did you mean blocks.0.hook_resid_pre",
    ),
    "misspelt short hook": (
        with_hook("resid_per0", lambda value, hook: None), UnknownHook, "Did you mean .*hook_resid_pre",
    ),
    "filter that matches nothing": (
        lambda model: model.run_with_cache(TOKENS, names_filter=lambda name: "nothing" in name), UnknownHook,
        r"selects none of the \d+ hook points \(hook_embed",
    ),
    "misspelt name in a filter": (
        lambda model: model.run_with_cache(TOKENS, names_filter=["z0", "zz1"]), UnknownHook, "no hook point 'zz1'",
    ),
    "wrong shape from a hook": (
        with_hook("z0", lambda value, hook: value[:, 1:]), BadHookValue,
        r"a hook on blocks.0.attn.hook_z returned shape \[2, 4, 4, 4\]; expected \[batch=2, pos=5, head=4, d_head=4\]",
    ),
    "wrong dtype from a hook": (
        with_hook("z0", lambda value, hook: value.float()), BadHookValue,
        "dtype torch.float32; expected torch.float64: convert it",
    ),
    "wrong type from a hook": (
        with_hook("z0", lambda value, hook: "value"), BadHookValue, "returned str; expected None .* a tensor of shape",
    ),
    "exception in a hook": (with_hook("resid_mid2", _explodes), ZeroDivisionError, "in a hook"),
    "exception in a backward hook": (
        lambda model: model.run_with_hooks(TOKENS, bwd_hooks=[("z0", _explodes)]).sum().backward(),
        ZeroDivisionError, "in a hook",
    ),
    "layer too high to stop at": (run(stop_at_layer=4), BadInput, "stop_at_layer=4 is out of range for a model of 3"),
    "layer too low to stop at": (run(stop_at_layer=-4), BadInput, "stop_at_layer=-4 is out of range"),
    "layer too high to start at": (
        lambda model: model(torch.zeros(1, 2, 12, dtype=torch.float64), start_at_layer=5), BadInput,
        "start_at_layer=5 is out of range",
    ),
    "stop before the start": (
        lambda model: model(torch.zeros(1, 2, 12, dtype=torch.float64), start_at_layer=2, stop_at_layer=1), BadInput,
        "stop_at_layer=1",
    ),
    "tokens where a stream is needed": (
        run(start_at_layer=1), BadInput, r"residual stream .*d_model=12\].* got \[2, 5\]",
    ),
    "a stream of another width": (
        lambda model: model(torch.zeros(1, 2, 13), start_at_layer=1), BadInput, r"d_model=12\].* got \[1, 2, 13\]",
    ),
    "a stream of another dtype": (
        lambda model: model(torch.zeros(1, 2, 12, dtype=torch.float32), start_at_layer=1), BadInput, "float32",
    ),
    "position out of range": (run(logits_pos=5), BadInput, "position 5 is out of range for prompts of 5 tokens"),
    "negative position out of range": (run(logits_pos=[-6, 0]), BadInput, "position -6 is out of range"),
    "positions for other rows": (
        run(logits_pos=torch.zeros(3, 1, dtype=torch.long)), BadInput, r"must be \[batch=2, n\], got \[3, 1\]",
    ),
    "positions and a loss": (
        run(logits_pos=-1, return_type="loss"), BadInput, "logits_pos leaves out positions that a loss needs",
    ),
    "a loss without tokens": (
        lambda model: model(torch.zeros(1, 2, 12, dtype=torch.float64), "loss", start_at_layer=1), BadInput,
        "a loss needs the tokens",
    ),
    "token too high": (
        lambda model: model(torch.tensor([[1, 23]])), BadInput, r"token ids must be 0\.\.22, got 23",
    ),
    "negative token": (lambda model: model(torch.tensor([[1, -1]])), BadInput, r"token ids must be 0\.\.22, got -1"),
    "tokens that are no integers": (
        lambda model: model(torch.rand(1, 3)), BadInput, r"integer tensor of token ids .* got a torch.float32",
    ),
    "booleans as tokens": (lambda model: model(TOKENS.bool()), BadInput, "got a torch.bool tensor"),
    "tokens with one axis too many": (lambda model: model(TOKENS[None]), BadInput, r"got shape \[1, 2, 5\]"),
    "a list of ids": (lambda model: model([1, 2, 3]), BadInput, "expected text or an integer tensor .* got list"),
    "nothing at all": (lambda model: model(None), BadInput, "got NoneType"),
    "an empty prompt": (
        lambda model: model(torch.zeros(1, 0, dtype=torch.long)), BadInput, r"at least one token, got shape \[1, 0\]",
    ),
    "no prompts": (lambda model: model(torch.zeros(0, 4, dtype=torch.long)), BadInput, r"got shape \[0, 4\]"),
    "an empty list": (lambda model: model([]), BadInput, "got list"),
    "a prompt too long": (
        lambda model: model(torch.zeros(1, 10, dtype=torch.long)), BadInput,
        "the prompt has 10 tokens, but this model reads at most n_ctx=9",
    ),
    "a mask of wrong shape": (
        run(attention_mask=torch.ones(2, 4)), BadInput, r"attention_mask must be .*\[2, 5\], got \[2, 4\]",
    ),
    "a mask that hides a row": (
        run(attention_mask=torch.tensor([[1] * 5, [0] * 5])), BadInput, "leaves a row without any real token",
    ),
    "unknown return type": (run(return_type="logit"), BadInput, "return_type must be .* got 'logit'"),
    "text without tokenizer": (lambda model: model("hello"), NoTokenizer, "this model has no tokenizer"),
    "answer without tokenizer": (lambda model: model.token_ids(" Mary"), NoTokenizer, "this model has no tokenizer"),
    "answer out of range": (
        lambda model: model.token_ids([3, 19]), BadInput, r"token ids must be 0\.\.18, got \[3, 19\]",
    ),
    "an unknown argument": (run(stop_layer=1), TypeError, "stop_layer"),
}  # fmt: skip


@pytest.mark.parametrize("label", MISTAKES)
def test_a_mistake_is_told_and_changes_nothing(label: str) -> None:
    mistake, error, said = MISTAKES[label]
    model = build()
    weights, before = copy.deepcopy(model.state_dict()), our_logits(model, TOKENS)
    with unchecked_types(), pytest.raises(error, match=said):
        mistake(model)
    assert not [point.name for point in model.hook_points() if point.hooked or point.ctx]
    assert torch.equal(our_logits(model, TOKENS), before)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert model.cfg == build().cfg


def test_mistakes_of_words() -> None:
    model = HookedTransformer(build().cfg, word_tokenizer()).eval()
    before = our_logits(model, "the cat sat")
    for mistake, error, said in (
        (lambda: model.token_ids("the cat"), TokenError, "'the cat' is 2 tokens"),
        (lambda: model("", prepend_bos=False), TokenError, "the text '' has no tokens"),
        (lambda: model([]), (TokenError, BadInput), "list"),
        (lambda: model("the cat", attention_mask=torch.ones(1, 9)), BadInput, r"= \[1, 3\], got \[1, 9\]"),
    ):
        with pytest.raises(error, match=said):
            mistake()
    assert torch.equal(our_logits(model, "the cat sat"), before)


def test_all_these_errors_can_be_caught_at_once() -> None:
    ours = {error for _, error, _ in MISTAKES.values() if error not in (ZeroDivisionError, TypeError)}
    assert all(issubclass(error, InterpHooksError) for error in ours)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reading_some_positions_computes_only_these_of_the_last_layer(name: str) -> None:
    """The same logits as a full pass, prompts padded or not, and with somebody looking into the last layer."""
    model, tokens = hooked(name), random_tokens(batch=3, pos=6, d_vocab=19)
    rows = torch.tensor([[5, 2], [0, -1], [3, 3]])
    last, each = model.blocks[-1], torch.arange(3)[:, None]
    widths: list[int] = []
    handle = last.ln1_post.register_forward_hook(lambda _, inputs, out: widths.append(inputs[0].shape[1]))
    padded = torch.arange(6) >= torch.tensor([0, 0, 2])[:, None]
    for mask in (None, padded):
        whole = our_logits(model, tokens, attention_mask=mask)
        widths.clear()
        # the same sums in other shapes of the same kernels, in float64
        assert_close(model(tokens, attention_mask=mask, logits_pos=rows), whole[each, rows], 1e-10)
        if model.cfg.norm_placement != "post":
            assert widths == [2]
        watched, _ = model.run_with_cache(
            tokens, attention_mask=mask, logits_pos=rows, names_filter=last.hook_attn_out.name
        )
        assert_close(watched, whole[each, rows], 1e-10)
        stream = model(tokens, attention_mask=mask, stop_at_layer=model.cfg.n_layers, logits_pos=rows)
        assert_close(model(stream, start_at_layer=model.cfg.n_layers), whole[each, rows], 1e-10)
    handle.remove()


def test_read_positions_need_all_layers() -> None:
    with pytest.raises(BadInput, match="logits_pos needs a pass through all 3 layers; this one stops at 1"):
        hooked("gpt2")(random_tokens(), stop_at_layer=1, logits_pos=-1)


@pytest.mark.parametrize("what", [["z"], ["mlp_out"], ["z", "mlp_out"]], ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.no_grad()
def test_what_is_known_of_the_first_layer_is_not_computed(name: str, what: list[str]) -> None:
    """The stream is the same, at all positions and at some; attention and MLP don't fire."""
    model = hooked(name)
    if "mlp_out" in what and model.cfg.attn_only:
        pytest.skip("there is no MLP")
    if model.cfg.n_streams > 1:
        pytest.skip("no pass starts at a layer, of which something could be known")
    tokens, rows = random_tokens(d_vocab=model.cfg.d_vocab), torch.tensor([[1], [4]])
    _, cache = model.run_with_cache(tokens)
    stream, layer = cache["resid_pre", 1], model.cfg.n_layers - 1
    known = {one: cache[one, 1] for one in what}
    options: dict[str, Any] = dict(tokens=tokens)  # which embeddings of each layer's own are made of
    whole = model(stream, start_at_layer=1, stop_at_layer=2, **options)
    inside = {"z": "blocks.1.attn.hook_v", "mlp_out": "blocks.1.mlp."}
    skipped = [[hook for hook in model.hook_dict if hook.startswith(inside[one])] for one in what]
    with model.hooks([(hooks, fails) for hooks in skipped]):
        assert_close(model(stream, start_at_layer=1, stop_at_layer=2, known=known, **options), whole, EXACT)
    if model.cfg.lender_of(layer) is not None:
        with pytest.raises(
            BadInput, match=r"layers after layer 1 use the (keys and values|choice of keys) that it makes"
        ):
            model(cache["resid_pre", layer], start_at_layer=layer, logits_pos=rows)
        return
    known = {one: cache[one, layer] for one in what}
    whole = model(cache["resid_pre", layer], start_at_layer=layer, logits_pos=rows, **options)
    assert_close(
        model(cache["resid_pre", layer], start_at_layer=layer, known=known, logits_pos=rows, **options), whole, EXACT
    )
    changed = {one: value + 1.0 for one, value in known.items()}
    assert not torch.allclose(model(cache["resid_pre", layer], start_at_layer=layer, known=changed, **options), whole)


def fails(value: Tensor, hook: HookPoint) -> None:
    raise AssertionError(f"{hook.name} was computed")


def test_known_values_that_do_not_fit_are_refused() -> None:
    model = hooked("gpt2")
    with torch.no_grad():
        _, cache = model.run_with_cache(random_tokens())
    stream, z = cache["resid_pre", 1], cache["z", 1]
    with pytest.raises(BadInput, match="the layer at which a pass starts"):
        model(random_tokens(), known={"z": z})
    with pytest.raises(BadInput, match=r"known= may hold z \[2, 7, .*; got z \[2, 4, "):
        model(stream, start_at_layer=1, known={"z": z[:, :4]})
    with pytest.raises(BadInput, match="got q"):
        model(stream, start_at_layer=1, known={"q": z})


# -------------------------------------------------------------------------------------------------------- soft prompts


def soft_logits(hf: Any, soft: Tensor, tokens: Tensor) -> Tensor:
    """HuggingFace's, of vectors in place of the embeddings of tokens 1 and 2."""
    embedded = hf.get_input_embeddings()(tokens).detach().clone()
    embedded[:, 1:3] = soft
    with torch.no_grad():
        return hf(inputs_embeds=embedded, use_cache=False).logits


@pytest.mark.parametrize("name", ["gpt2", "llama", "neox"])
def test_soft_prompts_give_huggingfaces_logits(name: str) -> None:
    hf, tokens = shared_hf(name), random_tokens()
    model = convert(hf, device="cpu")
    soft = torch.randn(2, model.cfg.d_model)
    stream, read, beside, mask = model.input_to_embed(tokens)
    assert torch.equal(read, tokens)
    assert mask is None
    assert_close(our_logits(model, stream, start_at_layer=0), our_logits(model, tokens), 1e-6)
    stream = stream.detach().clone()
    stream[:, 1:3] += soft - model.W_E[tokens[:, 1:3]]
    ours = our_logits(model, stream, start_at_layer=0, shortformer_pos_embed=beside, attention_mask=mask)
    assert_close(ours, soft_logits(hf, soft, tokens), 1e-5)


@pytest.mark.parametrize("name", [*CUSTOM, "gpt2", "llama"])
def test_a_pass_goes_on_from_what_enters_layer_0(name: str) -> None:
    """With padding, and with a key/value cache."""
    model = hooked(name)
    tokens, mask = random_tokens(d_vocab=23), torch.ones(2, 7, dtype=torch.long)
    mask[1, :2] = 0
    entering = model.input_to_embed(tokens, attention_mask=mask)
    options: dict[str, Any] = dict(shortformer_pos_embed=entering.shortformer_pos_embed)
    options |= dict(tokens=entering.tokens, attention_mask=entering.attention_mask)
    if model.cfg.n_streams > 1:
        with pytest.raises(BadInput, match="carries 3 streams, of which a pass with start_at_layer would have one"):
            model(entering.residual, start_at_layer=0, **options)
        return
    with torch.no_grad():
        ours = model(entering.residual, start_at_layer=0, **options)
    assert torch.equal(ours, our_logits(model, tokens, attention_mask=mask))
    assert (entering.shortformer_pos_embed is None) == (name != "shortformer")
    if model.cfg.attention_dir != "causal":
        return
    caches = KeyValueCache(), KeyValueCache()
    for cache in caches:
        our_logits(model, tokens[:, :4], attention_mask=mask[:, :4], past_kv_cache=cache)
    more = model.input_to_embed(tokens[:, 4:], past_kv_cache=caches[0])
    options = dict(past_kv_cache=caches[0], attention_mask=more.attention_mask)
    options |= dict(shortformer_pos_embed=more.shortformer_pos_embed, tokens=more.tokens)
    expected = our_logits(model, tokens[:, 4:], past_kv_cache=caches[1])
    with torch.no_grad():
        assert_close(model(more.residual, start_at_layer=0, **options), expected, 1e-12)


# ----------------------------------------------------------------------------------------------------------------- nan


@pytest.mark.parametrize("name", [*CUSTOM, "gpt2", "llama", "neox"])
@pytest.mark.parametrize("hook", ["q", "k", "v"])
def test_nan_shows_in_a_plain_pass_as_in_one_that_is_looked_at(name: str, hook: str) -> None:
    """Torch's kernel for CPUs makes 0 of a query that is nan."""
    model, tokens = hooked(name), random_tokens(d_vocab=23)
    if model.cfg.indexer is not None and hook == "k":
        pytest.skip("its queries need not see the key that is spoilt")
    hook = "rot_k" if hook == "k" and model.cfg.keys_values_from else hook

    def spoil(value: Tensor, hook: HookPoint) -> Tensor:
        value = value.clone()
        value[0, 3, 0, 1] = torch.nan
        return value

    def keep(value: Tensor, hook: HookPoint) -> None:
        pass

    last = model.cfg.n_layers - 1
    hooks: list[Any] = [(get_act_name(hook, last), spoil)]
    with torch.no_grad():
        plain = model.run_with_hooks(tokens, fwd_hooks=hooks)
        looked_at = model.run_with_hooks(tokens, fwd_hooks=[*hooks, (get_act_name("pattern", last), keep)])
    assert looked_at[0, 3].isnan().all()
    if hook == "q":
        assert torch.equal(plain.isnan(), looked_at.isnan())
    assert plain[0, 3].isnan().all()
    assert plain[1].isfinite().all()


def test_one_token_has_no_next_token_loss() -> None:
    model, one = build(), random_tokens(pos=1, d_vocab=19)
    padded, mask = random_tokens(pos=3, d_vocab=19), torch.tensor([[0, 0, 1], [0, 0, 1]])
    told = "needs a prompt of at least two tokens"
    with torch.no_grad():
        for lose in (
            lambda: model(one, return_type="loss"),
            lambda: model(one, return_type="both"),
            lambda: model(padded, return_type="loss", attention_mask=mask),
            lambda: lm_cross_entropy_loss(model(one), one),
            lambda: lm_cross_entropy_loss(model(padded), padded, mask),
            lambda: lm_accuracy(model(one), one),
        ):
            with pytest.raises(BadInput, match=told):
                lose()
        assert model(one, return_type="loss", loss_per_token=True).shape == (2, 0), "nothing is averaged"
        assert lm_accuracy(model(one), one, per_token=True).shape == (2, 0)
        alone = model(padded[:1], return_type="loss")
        assert_close(
            model(padded, return_type="loss", attention_mask=torch.tensor([[1, 1, 1], [0, 0, 1]])), alone, EXACT
        )
