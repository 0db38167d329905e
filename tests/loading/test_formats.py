"""Checkpoints of research code, against small reference models in plain torch with random parameters."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from interp_hooks import HookedTransformer, HookedTransformerConfig
from interp_hooks.errors import CheckpointError, ConfigError, UnsupportedConfig, WeightMismatch
from interp_hooks.loading.formats import from_checkpoint
from interp_hooks.model.config import ExpertsConfig
from tests.tiny import assert_close, build, our_logits, random_tokens, redraw, unchecked_types

SIZES = dict(n_layer=2, n_head=3, n_embd=12, vocab_size=23, block_size=10)
TOKENS = random_tokens(batch=2, pos=8, d_vocab=23)


# ------------------------------------------------------------------------------------------------- reference models


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Causal attention of [batch, pos, d_model] tensors whose heads lie side by side."""
    batch, pos, width = q.shape
    q, k, v = (x.view(batch, pos, heads, width // heads).transpose(1, 2) for x in (q, k, v))
    scores = (q @ k.mT / math.sqrt(width // heads)).masked_fill(torch.ones(pos, pos).triu(1).bool(), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, pos, width)


def mask(size: int) -> Tensor:
    return torch.ones(size, size).tril()[None, None]


class JointAttention(nn.Module):
    """Queries, keys and values from one linear map, as nanoGPT and today's minGPT have it."""

    def __init__(self, sizes: dict[str, int], bias: bool, masked: bool) -> None:
        super().__init__()
        width, self.heads = sizes["n_embd"], sizes["n_head"]
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)
        if masked:
            self.register_buffer("bias", mask(sizes["block_size"]))

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(attend(*self.c_attn(x).chunk(3, dim=-1), heads=self.heads))


class SeparateAttention(nn.Module):
    """Three linear maps, as minGPT had it in 2020."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        width, self.heads = sizes["n_embd"], sizes["n_head"]
        self.key, self.query, self.value, self.proj = (nn.Linear(width, width) for _ in range(4))
        self.register_buffer("mask", mask(sizes["block_size"]))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(self.query(x), self.key(x), self.value(x), self.heads))


class Block(nn.Module):
    def __init__(self, norms: tuple[str, str], attn: nn.Module, mlp: nn.Module, width: int, bias: bool) -> None:
        super().__init__()
        self.norms = norms
        for name in norms:
            self.add_module(name, nn.LayerNorm(width, bias=bias))
        self.attn, self.mlp = attn, mlp

    def forward(self, x: Tensor) -> Tensor:
        first, second = (self.get_submodule(name) for name in self.norms)
        x = x + self.attn(first(x))
        return x + self.mlp(second(x))


class NamedMLP(nn.Module):
    def __init__(self, width: int, act: Callable[[Tensor], Tensor], bias: bool) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width, bias=bias), nn.Linear(4 * width, width, bias=bias)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x)))


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


class GPT(nn.Module):
    """nanoGPT (`tied`, exact gelu, perhaps no biases) and minGPT (untied, gelu by tanh), whose names are the same."""

    def __init__(self, sizes: dict[str, int], act: Callable[[Tensor], Tensor], bias: bool, tied: bool, masked: bool):
        super().__init__()
        width = sizes["n_embd"]
        blocks = [
            Block(
                ("ln_1", "ln_2"),
                JointAttention(sizes, bias, masked),
                NamedMLP(width, act, bias),
                width=width,
                bias=bias,
            )
            for _ in range(sizes["n_layer"])
        ]
        self.transformer = nn.ModuleDict(
            dict(
                wte=nn.Embedding(sizes["vocab_size"], width),
                wpe=nn.Embedding(sizes["block_size"], width),
                h=nn.ModuleList(blocks),
                ln_f=nn.LayerNorm(width, bias=bias),
            )
        )
        self.lm_head = nn.Linear(width, sizes["vocab_size"], bias=False)
        if tied:
            self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.transformer["wte"](tokens) + self.transformer["wpe"](torch.arange(tokens.shape[1]))
        for block in self.transformer["h"]:
            x = block(x)
        return self.lm_head(self.transformer["ln_f"](x))


class GPTOf2020(nn.Module):
    """minGPT before its names became GPT-2's."""

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        width = sizes["n_embd"]
        self.tok_emb = nn.Embedding(sizes["vocab_size"], width)
        self.pos_emb = nn.Parameter(torch.zeros(1, sizes["block_size"], width))
        self.blocks = nn.Sequential(
            *(
                Block(
                    ("ln1", "ln2"),
                    SeparateAttention(sizes),
                    nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1)),
                    width=width,
                    bias=True,
                )
                for _ in range(sizes["n_layer"])
            )
        )
        self.ln_f = nn.LayerNorm(width)
        self.head = nn.Linear(width, sizes["vocab_size"], bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tok_emb(tokens) + self.pos_emb[:, : tokens.shape[1]]
        return self.head(self.ln_f(self.blocks(x)))


def drawn(model: nn.Module) -> nn.Module:
    """All parameters are drawn at random in float64; masks stay masks."""
    model = model.double().eval()
    masks = {name: buffer.clone() for name, buffer in model.named_buffers()}
    redraw(model, std=0.4)
    for name, buffer in model.named_buffers():
        buffer.copy_(masks[name])
    return model


def nano_gpt(bias: bool = True, masked: bool = False, act: Callable[[Tensor], Tensor] = F.gelu) -> GPT:
    return drawn(GPT(SIZES, act, bias, tied=True, masked=masked))


def nano_checkpoint(model: nn.Module, prefix: str = "", **changes: Any) -> dict[str, Any]:
    """What nanoGPT's training script saves."""
    args = SIZES | dict(dropout=0.1, bias=True) | changes
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    return {
        "model": state,
        "model_args": args,
        "iter_num": 3,
        "best_val_loss": torch.tensor(2.0),
        "config": {"seed": 1},
    }


def min_gpt() -> GPT:
    return drawn(GPT(SIZES, tanh_gelu, bias=True, tied=False, masked=True))


def assert_same(model: HookedTransformer, reference: nn.Module) -> None:
    with torch.no_grad():
        assert_close(model(TOKENS), reference(TOKENS), 1e-10)


# ----------------------------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_nano_gpt(bias: bool, masked: bool, prefix: str) -> None:
    reference = nano_gpt(bias, masked)
    model = from_checkpoint(nano_checkpoint(reference, prefix), dtype="float64")
    assert_same(model, reference)
    assert model.cfg.act_fn == "gelu"
    assert model.cfg.model_name == "nanoGPT"
    assert not model.training


def test_nano_gpt_with_the_activation_of_its_first_versions() -> None:
    reference = nano_gpt(act=tanh_gelu)
    assert_same(from_checkpoint(nano_checkpoint(reference), {"act_fn": "gelu_new", "dtype": "float64"}), reference)


def test_min_gpt() -> None:
    reference = min_gpt()
    settings = SIZES | dict(model_type="gpt-nano", embd_pdrop=0.1, resid_pdrop=0.1, attn_pdrop=0.1)
    assert_same(from_checkpoint(reference.state_dict(), settings, dtype="float64"), reference)


def test_min_gpt_of_2020() -> None:
    reference = drawn(GPTOf2020(SIZES))
    settings = SIZES | dict(embd_pdrop=0.1, resid_pdrop=0.1, attn_pdrop=0.1)
    assert_same(from_checkpoint(reference.state_dict(), settings, dtype="float64"), reference)


# What `cfg.to_dict()` of TransformerLens 3.9.0 gives for a small model: all of its fields.
LENS = dict(
    n_layers=2,
    d_model=12,
    n_ctx=10,
    d_head=4,
    model_name="toy",
    n_heads=3,
    d_mlp=20,
    act_fn="relu",
    d_vocab=23,
    d_vocab_out=-1,
    eps=1e-5,
    use_attn_result=False,
    use_attn_scale=True,
    attn_scale=-1.0,
    use_split_qkv_input=False,
    use_hook_mlp_in=False,
    use_attn_in=False,
    use_local_attn=False,
    ungroup_grouped_query_attention=False,
    original_architecture=None,
    from_checkpoint=False,
    checkpoint_index=None,
    checkpoint_label_type=None,
    checkpoint_value=None,
    tokenizer_name=None,
    window_size=None,
    attn_types=None,
    init_mode="gpt2",
    normalization_type="LN",
    device="cuda",
    n_devices=1,
    attention_dir="causal",
    attn_only=False,
    seed=None,
    initializer_range=0.2,
    init_weights=True,
    scale_attn_by_inverse_layer_idx=False,
    positional_embedding_type="standard",
    final_rms=False,
    parallel_attn_mlp=False,
    rotary_dim=None,
    n_params=1000,
    use_hook_tokens=False,
    gated_mlp=False,
    default_prepend_bos=True,
    dtype=torch.float64,
    tokenizer_prepends_bos=None,
    n_key_value_heads=None,
    post_embedding_ln=False,
    rotary_base=10000,
    trust_remote_code=False,
    rotary_adjacent_pairs=False,
    load_in_4bit=False,
    num_experts=None,
    experts_per_token=None,
    attn_scores_soft_cap=-1.0,
    output_logits_soft_cap=-1.0,
    use_NTK_by_parts_rope=False,
    use_normalization_before_and_after=False,
    uses_rms_norm=False,
    layer_norm_folding=False,
    use_qk_norm=False,
    clip_qkv=None,
    use_logn_attn=False,
    train_seq_length=None,
    use_dynamic_ntk_rope=False,
    rotary_base_local=None,
    rotary_scaling_factor=1.0,
    quantization_method=None,
    relative_attention_max_distance=None,
    relative_attention_num_buckets=None,
    decoder_start_token_id=None,
    tie_word_embeddings=False,
    NTK_by_parts_low_freq_factor=1.0,
    NTK_by_parts_high_freq_factor=4.0,
    NTK_by_parts_factor=8.0,
    NTK_original_ctx_len=8192,
    use_yarn_rope=False,
    yarn_factor=1.0,
    yarn_attention_factor=1.0,
    yarn_beta_fast=32.0,
    yarn_beta_slow=1.0,
    yarn_original_max_position_embeddings=4096,
    yarn_truncate=True,
    yarn_global_attn_only=False,
    use_attention_sinks=False,
    norm_topk_prob=False,
)


def ours(**fields: Any) -> HookedTransformer:
    """A model of our own, with random parameters in float64."""
    sizes = dict(n_layers=2, d_model=12, n_ctx=10, d_head=4, n_heads=3, d_mlp=20, d_vocab=23, act_fn="relu")
    model = HookedTransformer(HookedTransformerConfig(**sizes | fields, dtype="float64"))
    redraw(model, std=0.4)
    return model.eval()


def lens_state(model: HookedTransformer) -> dict[str, Tensor]:
    """Our tensors and the buffers that TransformerLens saves beside its own."""
    state = dict(model.state_dict())
    for layer in range(model.cfg.n_layers):
        state[f"blocks.{layer}.attn.mask"] = torch.ones(10, 10).tril().bool()
        state[f"blocks.{layer}.attn.IGNORE"] = torch.tensor(-torch.inf)
        if model.cfg.embed_norm_type:
            state |= {f"embed.ln.{leaf}": state.pop(f"ln_embed.{leaf}") for leaf in "wb" if f"ln_embed.{leaf}" in state}
        if model.cfg.n_key_value_heads != model.cfg.n_heads:
            for leaf in ("W_K", "W_V", "b_K", "b_V"):
                state[f"blocks.{layer}.attn._{leaf}"] = state.pop(f"blocks.{layer}.attn.{leaf}")
        if model.cfg.gated_mlp:
            assert not state.pop(f"blocks.{layer}.mlp.b_gate").any()
        if model.cfg.positional_embedding_type == "rotary":
            state[f"blocks.{layer}.attn.rotary_sin"] = state[f"blocks.{layer}.attn.rotary_cos"] = torch.ones(10, 4)
    return state


@pytest.mark.parametrize(
    ("theirs", "fields"),
    [
        ({}, {}),
        (dict(attn_only=True, act_fn=None), dict(attn_only=True, d_mlp=0, act_fn=None)),
        (dict(normalization_type="LNPre", d_vocab_out=7), dict(normalization_type="LNPre", d_vocab_out=7)),
        (dict(normalization_type=None, use_attn_scale=False), dict(normalization_type=None, attn_scale=1.0)),
        (dict(attn_scale=3.0, attn_scores_soft_cap=2.0), dict(attn_scale=3.0, attn_scores_soft_cap=2.0)),
        (dict(attention_dir="bidirectional"), dict(attention_dir="bidirectional")),
        (
            dict(use_local_attn=True, attn_types=["global", "local"], window_size=3),
            dict(window_sizes=(None, 3)),
        ),
        (
            dict(
                positional_embedding_type="rotary",
                rotary_dim=4,
                normalization_type="RMS",
                final_rms=True,
                n_heads=4,
                n_key_value_heads=2,
                gated_mlp=True,
                act_fn="silu",
            ),
            dict(
                positional_embedding_type="rotary",
                rotary_dim=4,
                normalization_type="RMS",
                n_heads=4,
                n_key_value_heads=2,
                gated_mlp=True,
                act_fn="silu",
            ),
        ),
        (dict(use_normalization_before_and_after=True), dict(norm_placement="pre_and_output")),
        (
            dict(post_embedding_ln=True, positional_embedding_type="rotary", rotary_dim=2),
            dict(embed_norm_type="LN", positional_embedding_type="rotary", rotary_dim=2),
        ),
        (dict(use_attention_sinks=True, clip_qkv=0.5), dict(attn_sinks=True, qkv_clip=0.5)),
        (
            dict(normalization_type="RMSPre", uses_rms_norm=True, layer_norm_folding=True, final_rms=True),
            dict(normalization_type="RMSPre"),
        ),
        (dict(attn_only=True, d_mlp=48), dict(attn_only=True, d_mlp=0)),
        (dict(attn_scale=np.float64(2.0), initializer_range=np.float64(0.23)), {}),
        (dict(device="mps", n_devices=2, tie_word_embeddings=True, n_params=2112, checkpoint_value=512), {}),
    ],
    ids=lambda case: "-".join(case) or "defaults",
)
def test_transformer_lens(theirs: dict[str, Any], fields: dict[str, Any]) -> None:
    reference = ours(**fields)
    if reference.cfg.gated_mlp:
        with torch.no_grad():
            for block in reference.blocks:
                block.mlp.b_gate.zero_()  # which TransformerLens does not have
                block.mlp.b_in.zero_()  # which it adds elsewhere
    settings, state = LENS | theirs, lens_state(reference)
    before = {name: tensor.clone() for name, tensor in state.items()}
    model = from_checkpoint(state, settings)
    assert model.dtype == torch.float64
    assert_same(model, reference)
    assert all(torch.equal(state[name], before[name]) for name in before), "the state dict stays as it was"
    with torch.no_grad():
        model.W_E.zero_()
    assert torch.equal(state["embed.W_E"], before["embed.W_E"])


@pytest.mark.parametrize(
    "fields",
    [
        dict(positional_embedding_type="rotary", rotary_dim=2, kv_latent=5, q_latent=7, normalization_type="RMS"),
        dict(n_heads=4, n_key_value_heads=2, attn_sinks=True, gated_mlp=True, act_fn="silu"),
        dict(
            experts=ExpertsConfig(
                n_experts=3, experts_per_token=2, d_expert=6, layers=(False, True), biased_choice=True
            )
        ),
    ],
    ids=["latent", "grouped", "experts"],
)
def test_state_dicts_of_our_own(fields: dict[str, Any]) -> None:
    reference = ours(**fields)
    assert_same(from_checkpoint(reference.state_dict(), reference.cfg), reference)
    assert_same(from_checkpoint(reference.state_dict(), reference.cfg.to_dict()), reference)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_files(tmp_path: Path, suffix: str) -> None:
    reference = min_gpt()
    path = tmp_path / f"model.{suffix}"
    state = {name: tensor.contiguous() for name, tensor in reference.state_dict().items()}
    save_file(state, path) if suffix == "safetensors" else torch.save(state, path)
    assert_same(from_checkpoint(path, SIZES, dtype="float64"), reference)
    assert_same(from_checkpoint(str(path), SIZES, dtype="float64"), reference)


def test_a_nano_gpt_file(tmp_path: Path) -> None:
    reference = nano_gpt()
    torch.save(nano_checkpoint(reference), tmp_path / "ckpt.pt")
    model = from_checkpoint(tmp_path / "ckpt.pt", dtype="float64")
    assert_same(model, reference)
    with torch.no_grad():
        model.W_E.zero_()
    assert model.W_U.any(), "tied embeddings become two weights"


def test_dtype_and_tokenizer() -> None:
    model = from_checkpoint(nano_checkpoint(nano_gpt()), tokenizer=None, dtype="bfloat16", device="cpu")
    assert model.dtype == model.cfg.dtype == torch.bfloat16
    assert from_checkpoint(nano_checkpoint(nano_gpt())).dtype == torch.float32


# ---------------------------------------------------------------------------------------------------------- refusals


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint in a known format \(TransformerLens, nanoGPT, .*weight"):
        from_checkpoint({"weight": torch.ones(2)}, SIZES)
    with pytest.raises(CheckpointError, match="holds nothing"):
        from_checkpoint({}, SIZES)


def test_an_entry_that_is_no_tensor_is_refused() -> None:
    state = min_gpt().state_dict() | {"epoch": 3}
    with pytest.raises(CheckpointError, match="'epoch' is of type int"):
        from_checkpoint(state, SIZES)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        from_checkpoint(tmp_path / "absent.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=re.escape(str(broken))):
        from_checkpoint(broken)
    torch.save({"model": Path("x"), "model_args": SIZES}, tmp_path / "objects.pt")
    with pytest.raises(CheckpointError, match="more than tensors and plain values"):
        from_checkpoint(tmp_path / "objects.pt")
    torch.save(torch.ones(2), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        from_checkpoint(tmp_path / "tensor.pt")


def test_a_bare_nano_gpt_state_dict_is_not_taken_for_min_gpt() -> None:
    """The names are the same, the activations are not."""
    with pytest.raises(CheckpointError, match="tied embeddings"):
        from_checkpoint(nano_gpt(masked=True).state_dict(), SIZES)
    with pytest.raises(CheckpointError, match="known format"):
        from_checkpoint(nano_gpt().state_dict(), SIZES)


def test_settings_are_needed_and_all_accounted_for() -> None:
    state = min_gpt().state_dict()
    with pytest.raises(ConfigError, match="pass its config"):
        from_checkpoint(state)
    with pytest.raises(ConfigError, match="lacks 'n_head'"):
        from_checkpoint(state, {name: size for name, size in SIZES.items() if name != "n_head"})
    with pytest.raises(UnsupportedConfig, match=r"sets rotary=True.*ignore_config=\['rotary'\]"):
        from_checkpoint(state, SIZES | dict(rotary=True))
    from_checkpoint(state, SIZES | dict(rotary=True), ignore_config=["rotary"])
    with pytest.raises(UnsupportedConfig, match="sets moe=4"):
        from_checkpoint(nano_checkpoint(nano_gpt(), moe=4))
    with pytest.raises(ConfigError, match=r"no field 'act'.*act_fn"):
        from_checkpoint(nano_checkpoint(nano_gpt()), {"act": "relu"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(num_experts=4, experts_per_token=2), "sets num_experts=4.*experts=ExpertsConfig"),
        (dict(use_yarn_rope=True), "sets use_yarn_rope=True.*rotary_scaling="),
        (dict(use_dynamic_ntk_rope=True), "sets use_dynamic_ntk_rope=True"),
        (dict(use_logn_attn=True), "sets use_logn_attn=True"),
        (dict(rotary_base_local=10_000), "sets rotary_base_local=10000.*rotary_layers"),
        (dict(rotary_scaling_factor=8.0), "sets rotary_scaling_factor=8.0.*'linear'"),
        (dict(quantization_method="mxfp4"), "sets quantization_method='mxfp4'"),
        (dict(load_in_4bit=True), "sets load_in_4bit=True"),
        (dict(uses_rms_norm=True), "uses_rms_norm=True contradicts normalization_type='LN'"),
        (dict(layer_norm_folding=True), "layer_norm_folding=True contradicts normalization_type='LN'"),
        (dict(post_embedding_ln=True), "sets post_embedding_ln=True"),
        (dict(use_qk_norm=True), "sets use_qk_norm=True"),
        (dict(n_layer=2), "sets n_layer=2.*Did you mean n_layers"),
    ],
)
def test_what_transformer_lens_sets_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        from_checkpoint(lens_state(ours()), LENS | change)


def test_what_no_model_of_ours_can_be() -> None:
    with unchecked_types(), pytest.raises(ConfigError, match="act_fn must be 'relu'"):
        from_checkpoint(lens_state(ours()), LENS | dict(act_fn="swish"))
    with unchecked_types(), pytest.raises(ConfigError, match="positional_embedding_type must be '"):
        from_checkpoint(lens_state(ours()), LENS | dict(positional_embedding_type="relative"))


def test_tensors_that_do_not_fit_are_refused() -> None:
    state = min_gpt().state_dict()
    with pytest.raises(WeightMismatch, match=r"minGPT: 1 tensors .* surplus"):
        from_checkpoint(state | {"surplus": torch.ones(2)}, SIZES)
    with pytest.raises(WeightMismatch, match=r"no tensor transformer.h\.1\.ln_2\.bias"):
        from_checkpoint({name: x for name, x in state.items() if name != "transformer.h.1.ln_2.bias"}, SIZES)
    with pytest.raises(WeightMismatch, match=r"wpe.weight gives pos_embed.W_pos shape"):
        from_checkpoint(state, SIZES | dict(block_size=11))
    with pytest.raises(WeightMismatch, match="have no place"):
        from_checkpoint(state, SIZES | dict(n_layer=1))
    transposed = {name: x.mT.contiguous() if "c_attn.weight" in name else x for name, x in state.items()}
    with pytest.raises(WeightMismatch, match=r"c_attn.weight has shape"):
        from_checkpoint(transposed, SIZES)


def test_the_models_own_constructor_reads_them_too() -> None:
    original = build()
    state = {name: weight.detach() for name, weight in original.named_parameters()}
    model = HookedTransformer.from_state_dict(state, original.cfg)
    tokens = random_tokens(d_vocab=23)
    assert torch.equal(our_logits(model, tokens), our_logits(original, tokens))


@torch.no_grad()
def test_a_bias_that_transformer_lens_adds_after_the_product_with_the_gate() -> None:
    """Its gated MLP is (act(x W_gate) * (x W_in) + b_in) W_out + b_out."""
    model = build(gated_mlp=True, act_fn="silu", n_layers=1)
    state = {name: value.clone() for name, value in model.state_dict().items() if not name.endswith("b_gate")}
    loaded = HookedTransformer.from_state_dict(state, model.cfg)
    assert bool(state["blocks.0.mlp.b_in"].any()), "the given state dict stays as it is"
    x = torch.linspace(-1, 1, 3 * model.cfg.d_model, dtype=torch.float64).reshape(1, 3, -1)
    W_gate, W_in, W_out, b_in, b_out = (
        state[f"blocks.0.mlp.{name}"] for name in ("W_gate", "W_in", "W_out", "b_in", "b_out")
    )
    expected = (torch.nn.functional.silu(x @ W_gate) * (x @ W_in) + b_in) @ W_out + b_out
    assert_close(loaded.blocks[0].mlp(x), expected, 1e-12)


def test_a_setting_that_is_known_to_be_harmless() -> None:
    reference, settings = ours(), LENS | dict(use_qk_norm=True, new_in_4=1)
    state = lens_state(reference)
    with pytest.raises(UnsupportedConfig, match="ignore_config"):
        HookedTransformer.from_state_dict(state, settings)
    model = HookedTransformer.from_state_dict(
        state, settings, ignore_config=["use_qk_norm", "new_in_4"], dtype="float64", device="cpu"
    )
    assert_same(model, reference)
