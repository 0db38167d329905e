"""What is refused or lies elsewhere by now, and under `compat` is as TransformerLens' users know it."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OPTConfig, OPTForCausalLM

from interp_hooks import ActivationCache
from interp_hooks import HookedTransformerConfig as FrozenConfig
from interp_hooks.compat import IOIDataset, attention, classes
from interp_hooks.compat.classes import FactoredMatrix, HookedEncoder
from interp_hooks.compat.config import HookedTransformerConfig
from interp_hooks.compat.heads import detect_head
from interp_hooks.compat.hook_points import BaseTensorConversion, HookPoint
from interp_hooks.compat.model import HookedTransformer
from interp_hooks.compat.rotary import ntk_alpha
from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.model import factored
from interp_hooks.model.components.norm import Norm
from tests.compat.test_old_code import SIZES, model_of
from tests.model.test_tokens import word_tokenizer
from tests.tiny import assert_close, random_tokens, redraw

# --------------------------------------------------------------------------------------------------------------- passes


def test_hooks_that_a_pass_never_reaches_are_passed_over() -> None:
    model, tokens = model_of(), random_tokens(d_vocab=17)
    called: list[str] = []

    def note(value: Tensor, hook: Any) -> Tensor:
        called.append(hook.name)
        return value * 0

    hooks = [("blocks.0.hook_resid_pre", note), ("blocks.1.mlp.hook_pre", note)]
    resid = model.run_with_hooks(tokens, stop_at_layer=1, fwd_hooks=hooks)
    assert called == ["blocks.0.hook_resid_pre"]
    assert not torch.equal(resid, model(tokens, stop_at_layer=1))
    _, cache = model.run_with_cache(tokens, stop_at_layer=1, names_filter=["blocks.0.hook_resid_pre", "mlp_out1"])
    assert list(cache) == ["blocks.0.hook_resid_pre"]
    assert not any(point.hooks for point in model.hook_points())


def test_long_text_is_cut_and_generation_asks_for_its_end() -> None:
    model = HookedTransformer(SIZES | dict(d_vocab=-1), tokenizer=word_tokenizer()).eval()
    long = " ".join(["Mary"] * 30)
    assert model.to_tokens(long).shape == (1, 9)
    assert model(long).shape[:2] == (1, 9)
    assert model.to_tokens(long, truncate=False).shape[1] > 9
    for text in ("", long):
        with pytest.raises(AssertionError, match="must be non-empty and must fit within the model's context window"):
            detect_head(model, text, "previous_token_head")
    assert detect_head(model, "Mary and John", "previous_token_head").shape == (2, 4)
    alone, tokens = model_of(), random_tokens(pos=4, d_vocab=17)
    with pytest.raises(AssertionError, match="stop_at_eos=True needs an eos_token_id"):
        alone.generate(tokens, 2, verbose=False)
    assert alone.generate(tokens, 2, stop_at_eos=False, verbose=False).shape == (len(tokens), 6)


# ----------------------------------------------------------------------------------------------------- embeddings, MLPs


def test_the_position_embeddings_of_opt_begin_at_position_0() -> None:
    """The others are there, but not in `W_pos`: what goes back to HuggingFace is what came, bit by bit."""
    sizes = dict(num_hidden_layers=2, hidden_size=12, num_attention_heads=3, ffn_dim=20, word_embed_proj_dim=12)
    hf = OPTForCausalLM(OPTConfig(**sizes, vocab_size=19, max_position_embeddings=9)).eval()
    redraw(hf)
    model = HookedTransformer.from_pretrained_no_processing("opt", hf_model=hf, device="cpu")
    tokens = torch.randint(4, 19, (2, 6))
    assert torch.equal(model.W_pos, hf.model.decoder.embed_positions.weight[2:])
    assert torch.equal(model.pos_embed(tokens)[1], model.W_pos[:6])
    assert_close(model(tokens), hf(tokens).logits, 1e-5)
    assert all(torch.equal(theirs, model.to_hf().state_dict()[name]) for name, theirs in hf.state_dict().items())
    folded = HookedTransformer.from_pretrained("opt", hf_model=hf, device="cpu")
    assert_close(folded(tokens).log_softmax(-1), hf(tokens).logits.log_softmax(-1), 1e-4)
    assert folded.W_pos.mean(-1).abs().max() < 1e-6
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.W_pos[3] += torch.arange(12)
    differs = (model(tokens) != other(tokens)).flatten(2).any(-1)
    assert differs.tolist() == [[False] * 3 + [True] * 3] * 2


def test_the_embeddings_of_an_encoder_are_within_one_part() -> None:
    model = HookedEncoder(HookedTransformerConfig(**SIZES))
    assert model.embed.embed.W_E is model.W_E
    assert model.embed.pos_embed.W_pos is model.W_pos
    assert model.embed.token_type_embed.W_token_type.shape == (2, 12)
    assert sum(name.endswith("W_E") for name in model.state_dict()) == 1


def test_an_mlp_of_ones_own() -> None:
    class Doubling(classes.CanBeUsedAsMLP):
        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            self.select_activation_function()

    plain, normalizing = Doubling(SIZES), Doubling(SIZES | dict(act_fn="solu_ln"))
    assert plain.d_mlp == 48
    assert torch.equal(plain.act_fn(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))
    assert isinstance(normalizing.ln, Norm)
    assert normalizing.hook_mid is not None
    x = torch.randn(2, 3, 12)
    assert torch.equal(plain(x), x)
    model = model_of()
    for part, is_one in ((plain, True), (model.blocks[0].mlp, True), (model.blocks[0].attn, False)):
        assert isinstance(part, classes.CanBeUsedAsMLP) == is_one
    assert not isinstance(model.blocks[0].mlp, Doubling)
    with pytest.raises(ConfigError, match="d_mlp must be set"):
        classes.CanBeUsedAsMLP(SIZES | dict(attn_only=True))


# ------------------------------------------------------------------------------------------------------------ attention


@pytest.mark.parametrize("adjacent", [False, True])
def test_rotary_tables_turn_queries_as_a_pass_does(adjacent: bool) -> None:
    fields = dict(positional_embedding_type="rotary", rotary_dim=4, d_head=6, rotary_adjacent_pairs=adjacent)
    model = model_of(**fields, rotary_base=100)
    tokens = random_tokens(pos=7, d_vocab=17)
    _, cache = model.run_with_cache(tokens)
    attn = model.blocks[1].attn
    assert_close(attn.apply_rotary(cache["q", 1]), cache["rot_q", 1], 1e-12)
    assert_close(attn.apply_rotary(cache["k", 1][:, 3:], 3), cache["rot_k", 1][:, 3:], 1e-12)
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    _, padded = model.run_with_cache(tokens, attention_mask=mask)
    assert_close(attn.apply_rotary(padded["q", 1], 0, mask), padded["rot_q", 1], 1e-12)
    angle = 5 * 100 ** -torch.tensor([0, 0.5], dtype=torch.float64)
    expected = angle.repeat_interleave(2) if adjacent else angle.repeat(2)
    assert_close(attn.rotary_sin[5], expected.sin(), 1e-6)
    assert attn.rotary_cos.shape == (9, 4)
    attn.rotary_sin = model.blocks[0].attn.rotary_sin  # shared between layers, as by circuit-tracer
    with pytest.raises(BadInput, match="rotary angles are told by the config"):
        attn.rotary_cos = attn.rotary_sin
    with pytest.raises(AttributeError, match="rotary_sin"):
        _ = model_of().blocks[0].attn.rotary_sin


def test_tables_grow_by_doubling_and_old_ones_are_not_loaded() -> None:
    attn: Any = attention.Attention(SIZES | dict(n_ctx=9000, positional_embedding_type="rotary", d_head=4))
    for position, rows in ((2047, 2048), (2048, 4096), (4095, 4096), (8999, 9000)):
        attn.apply_rotary(torch.ones(1, 1, 4, 4), past_kv_pos_offset=position)
        assert len(attn.rotary_cos) == rows
    state = attn.state_dict()
    assert "rotary_sin" not in state
    attn.load_state_dict(
        state | {"rotary_sin": attn.rotary_sin, "rotary_cos": attn.rotary_cos, "mask": torch.ones(3, 3)}
    )


def test_scores_are_masked_as_in_a_pass() -> None:
    windows = dict(use_local_attn=True, window_size=3, attn_types=["global", "local"])
    model, tokens = model_of(**windows), random_tokens(pos=6, d_vocab=17)
    _, cache = model.run_with_cache(tokens)
    for layer in (0, 1):
        hidden = model.blocks[layer].attn.apply_causal_mask(torch.zeros(1, 1, 6, 6)).isinf()
        assert torch.equal(hidden.expand(len(tokens), 4, -1, -1), cache["attn_scores", layer].isinf())
        later = model.blocks[layer].attn.apply_causal_mask(torch.zeros(1, 1, 2, 6), 4).isinf()
        assert torch.equal(later, hidden[:, :, 4:])
    padded = model.blocks[0].attn.apply_causal_mask(torch.zeros(1, 1, 2, 4), 2, torch.tensor([[1, 0, 1, 1]]))
    assert padded.isinf().int().tolist() == [[[[0, 1, 0, 1], [0, 1, 0, 0]]]]
    with pytest.raises(BadInput, match="2 queries after 1 tokens see as many keys, got 6"):
        model.blocks[0].attn.apply_causal_mask(torch.zeros(1, 1, 2, 6), 1)


def test_attention_through_a_window_has_its_own_base() -> None:
    """A window without `use_local_attn` is that of a layer that is built alone as a local one."""
    fields = SIZES | dict(positional_embedding_type="rotary", d_head=4, rotary_base=10_000, rotary_base_local=100)
    cfg = HookedTransformerConfig(**fields, window_size=2)
    assert (cfg.window_size, cfg.use_local_attn, cfg.rotary_base_local) == (2, False, 100)
    near, far = attention.Attention(cfg, "local"), attention.Attention(cfg)
    assert (near.window, far.window) == (2, None)
    assert_close(near.rotary_sin[3, 1], torch.tensor(0.3).sin(), 1e-6)
    assert_close(far.rotary_sin[3, 1], torch.tensor(0.03).sin(), 1e-6)
    types = dict(use_local_attn=True, window_size=2, attn_types=["global", "local"])
    model = HookedTransformer(fields | types)
    bases = [model.cfg.rotary_at(layer)["rope_theta"] for layer in (0, 1)]
    assert bases == [10_000, 100]
    with pytest.raises(ConfigError, match="needs a config with window_size"):
        attention.Attention(SIZES, "local")


def test_the_first_qwens_rules_for_long_texts() -> None:
    """By hand: scores of a long text are those of turned queries and keys, and of a factor of late queries."""
    rules = dict(use_dynamic_ntk_rope=True, use_logn_attn=True, train_seq_length=4)
    model = model_of(positional_embedding_type="rotary", d_head=4, d_model=16, **rules)
    plain = model_of(positional_embedding_type="rotary", d_head=4, d_model=16)
    plain.load_state_dict(model.state_dict())
    tokens = random_tokens(pos=9, d_vocab=17)
    assert torch.equal(model(tokens[:, :4]), plain(tokens[:, :4])), "nothing changes as long as texts are short"
    assert torch.equal(model.train()(tokens), plain(tokens)), "nor in training"
    model.eval()
    assert [ntk_alpha(length, 4) for length in (4, 5, 8, 9, 16, 17)] == [1, 3, 3, 7, 7, 15]
    _, cache = model.run_with_cache(tokens)
    q, k = cache["q", 0], cache["k", 0]
    freq = (10_000 * 7**2.0) ** -torch.tensor([0, 0.5], dtype=torch.float64)
    angle = torch.arange(9)[:, None] * freq

    def turned(x: Tensor) -> Tensor:
        pairs = torch.complex(x[..., :2], x[..., 2:]) * torch.polar(torch.ones_like(angle), angle)[None, :, None]
        return torch.cat((pairs.real, pairs.imag), -1)

    late = torch.tensor([max(1, math.log(1 + position, 4)) for position in range(9)], dtype=torch.float64)
    scores = torch.einsum("bqhk,bphk->bhqp", turned(q) * late[:, None, None], turned(k)) / 2
    seen = torch.ones(9, 9).tril().bool()
    assert_close(cache["attn_scores", 0][..., seen], scores[..., seen], 1e-6)
    attn = model.blocks[0].attn
    assert_close(attn._apply_logn_scaling(attn.apply_rotary(q)), cache["rot_q", 0], 1e-6)
    greedy = dict(do_sample=False, stop_at_eos=False, verbose=False)
    with_cache = model.generate(tokens[:, :3], 6, **greedy)
    assert torch.equal(with_cache, model.generate(tokens[:, :3], 6, use_past_kv_cache=False, **greedy))
    with pytest.raises(ConfigError, match="the first Qwen is not implemented"):
        FrozenConfig(**SIZES, use_logn_attn=True)


# ------------------------------------------------------------------------------------------ hook points, matrices, text


class Halves(BaseTensorConversion):
    def handle_conversion(self, input_value: Any, *full_context: Any) -> Any:
        return input_value / 2

    def revert(self, input_value: Any, *full_context: Any) -> Any:
        return input_value * 10


def test_functions_see_converted_values_under_several_names() -> None:
    point = HookPoint()
    point.enable_reshape(Halves(output_filter=lambda value: value - 1))
    seen: list[tuple[str, float]] = []

    def hook(value: Tensor, hook: Any) -> Tensor | None:
        seen.append((hook.name, value.item()))
        return value + 100 if hook.name == "blocks.3.here" else None

    handle = point.add_hook(hook, alias_names=["blocks.3.here", "there"])
    assert point(torch.tensor(8.0)).item() == 1030
    assert seen == [("blocks.3.here", 3), ("there", 103)]
    handle.remove()
    point.add_hook(lambda value, hook: None)
    assert point(torch.tensor(8.0)).item() == 8, "nothing was changed, so nothing is reverted"
    model = model_of()
    assert isinstance(model.hook_embed, HookPoint)
    assert not isinstance(model.embed, HookPoint)


def test_a_name_among_several_has_a_layer_and_the_points_notes() -> None:
    point, found = HookPoint(), []
    point.ctx["note"] = 3
    point.add_hook(lambda value, hook: found.append((hook.layer(), hook.ctx["note"])), alias_names=["blocks.2.x"])
    point(torch.zeros(1))
    assert found == [(2, 3)]


def test_two_lists_are_all_pairs_of_rows_and_columns() -> None:
    matrix = FactoredMatrix(torch.randn(2, 5, 3), torch.randn(2, 3, 7))
    found = matrix[:, [0, 4, 2], torch.tensor([6, 1])]
    assert_close(found.AB, matrix.AB[:, [0, 4, 2]][:, :, [6, 1]], 1e-6)
    assert type(found) is type(matrix.T) is type(matrix @ torch.randn(7, 2)) is FactoredMatrix
    assert isinstance(factored.FactoredMatrix(matrix.A, matrix.B), FactoredMatrix)
    with pytest.raises(BadInput, match="goes with no other list"):
        matrix[[0, 1], [0, 1]]
    with pytest.raises(BadInput, match="goes with no other list"):
        factored.FactoredMatrix(matrix.A, matrix.B)[:, [0, 1], [0, 1]]


def test_a_tokenizer_of_ones_own_is_enough_for_a_data_set() -> None:
    class Letters:
        bos_token_id = 0

        def encode(self, text: str) -> list[int]:
            return [ord(letter) for letter in text]

    sample = IOIDataset(Letters(), num_samples=2, seed=0)
    text = "".join(map(chr, sample[1]["prompt"].tolist()))
    assert text == "\0" + sample.samples[1]["text"]
    assert sample[1]["IO"].tolist() == [ord(letter) for letter in sample.samples[1]["IO"]]
    with pytest.raises(BadInput, match="tokenizer must be a tokenizer of transformers"):
        IOIDataset(3)


def test_activations_without_a_batch_axis_stay_as_they_are() -> None:
    """For every cache: entries of another leading size are no prompts."""
    entries = {
        "a": torch.randn(3, 5, 2),
        "b": torch.randn(3, 5),
        "places": torch.randn(1, 5),
        "bias": torch.randn(5, 5),
    }
    cache = ActivationCache(entries, None)
    chosen = cache.apply_slice_to_batch_dim((1, 3))
    assert torch.equal(chosen["a"], entries["a"][1:3])
    assert torch.equal(chosen["places"], entries["places"])
    with pytest.raises(BadInput, match="not of a batch size 3"):
        cache.remove_batch_dim()
    alone = ActivationCache({name: one if name == "bias" else one[:1] for name, one in entries.items()}, None)
    alone.remove_batch_dim()
    assert {name: tuple(one.shape) for name, one in alone.items()} == dict(a=(5, 2), b=(5,), places=(5,), bias=(5, 5))
