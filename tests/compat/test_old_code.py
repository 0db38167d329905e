"""What code for TransformerLens does to configs, parts of models, caches and tokenizers means here what it meant there.

The classes of `interp_hooks.compat` are what `transformer_lens` has after `install()`; they are taken from there.
"""

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForPreTraining, BertTokenizer, PreTrainedTokenizerBase

from interp_hooks import HookedTransformerConfig as FrozenConfig
from interp_hooks import KeyValueCache
from interp_hooks.compat import attention, components
from interp_hooks.compat.classes import BERT, HookedEncoder, SVDInterpreter
from interp_hooks.compat.config import OWN, READ, UNSET, HookedTransformerConfig
from interp_hooks.compat.kv_cache import (
    TransformerLensKeyValueCache,
    TransformerLensKeyValueCacheEntry,
    get_pos_offset,
)
from interp_hooks.compat.model import HookedTransformer
from interp_hooks.compat.next_sentence import BertNextSentencePrediction
from interp_hooks.errors import BadInput, ConfigError
from tests.model.test_tokens import word_tokenizer
from tests.tiny import assert_close, random_tokens, redraw, unchecked_types

SIZES: dict[str, Any] = dict(n_layers=2, d_model=12, n_ctx=9, d_head=3, d_vocab=17, act_fn="relu", device="cpu")


def model_of(**fields: Any) -> HookedTransformer:
    model = HookedTransformer(HookedTransformerConfig(**SIZES | dict(dtype=torch.float64) | fields)).eval()
    redraw(model)
    return model


# -------------------------------------------------------------------------------------------------------------- configs


def test_a_config_takes_assignments_until_a_model_is_built() -> None:
    cfg = HookedTransformerConfig(**SIZES)
    cfg.n_ctx, cfg.d_vocab, cfg.tokenizer_name = 5, 23, None
    assert (cfg.n_ctx, cfg.d_vocab, cfg.d_vocab_out) == (5, 23, 23)
    cfg.use_normalization_before_and_after = True
    assert cfg.norm_placement == "pre_and_output"
    with pytest.raises(ConfigError, match="n_key_value_heads=3 does not divide n_heads=4"):
        cfg.n_key_value_heads = 3
    assert cfg.n_key_value_heads == 4, "nothing is half changed"
    with pytest.raises(ConfigError, match=r"no field 'n_layer'\. Did you mean n_layers"):
        cfg.n_layer = 3
    assert HookedTransformer(cfg).W_E.shape == (23, 12)


@pytest.mark.parametrize(
    ("flag", "hook"),
    [
        ("use_attn_result", "blocks.1.attn.hook_result"),
        ("use_split_qkv_input", "blocks.1.hook_q_input"),
        ("use_attn_in", "blocks.1.hook_attn_in"),
        ("use_hook_mlp_in", "blocks.1.hook_mlp_in"),
    ],
)
def test_flags_of_a_built_model(flag: str, hook: str) -> None:
    model = model_of()
    tokens = random_tokens(d_vocab=17)
    for value in (True, False):
        setattr(model.cfg, flag, value)
        assert getattr(model.cfg, flag) is value
        assert (hook in model.run_with_cache(tokens)[1]) is value


def test_other_assignments_to_a_built_models_config() -> None:
    model = model_of(n_key_value_heads=2)
    model.cfg.ungroup_grouped_query_attention = True
    assert model.cfg.ungroup_grouped_query_attention
    assert model.W_K.shape[1] == 4
    model.cfg.dtype = torch.float32
    assert model.W_E.dtype == model.cfg.dtype == torch.float32
    model.cfg.model_name = "mine"
    assert model.cfg.model_name == "mine"
    model.cfg.eps = model.cfg.eps  # which changes nothing
    with pytest.raises(ConfigError, match=r"eps = 3: the model was built with 1e-05 .*cfg.replace\(eps=3\)"):
        model.cfg.eps = 3
    with pytest.raises(ConfigError, match=r"no field 'use_atn_result'\. Did you mean use_attn_result"):
        model.cfg.use_atn_result = True
    model.set_tokenizer(word_tokenizer())
    model.cfg.default_prepend_bos = False
    assert not model.default_prepend_bos
    assert not model.cfg.default_prepend_bos


def test_fields_that_have_other_names_here_are_read() -> None:
    """Each field of TransformerLens' config is there, and says what the model is."""
    cfg = HookedTransformerConfig(**SIZES)
    assert {name: getattr(cfg, name) for name in UNSET} == UNSET
    assert all(name in cfg.to_dict() for name in (*READ, *UNSET, *OWN))
    assert not cfg.use_local_attn
    windows = dict(use_local_attn=True, window_size=3, attn_types=["global", "local"])
    cfg = HookedTransformerConfig(**SIZES | windows)
    assert (cfg.use_local_attn, cfg.window_size, cfg.attn_types) == (True, 3, ["global", "local"])
    rope = dict(positional_embedding_type="rotary", rotary_dim=2, use_NTK_by_parts_rope=True, NTK_by_parts_factor=4.0)
    cfg = HookedTransformerConfig(**SIZES | rope)
    assert (cfg.use_NTK_by_parts_rope, cfg.NTK_by_parts_factor, cfg.NTK_original_ctx_len) == (True, 4.0, 8192)
    cfg = HookedTransformerConfig(**SIZES | dict(num_experts=3, experts_per_token=2, use_qk_norm=True))
    assert (cfg.num_experts, cfg.experts_per_token, cfg.norm_topk_prob, cfg.use_qk_norm) == (3, 2, False, True)
    with pytest.raises(AttributeError, match=r"no field 'n_head'\. Did you mean"):
        _ = cfg.n_head


def test_the_same_config_by_other_roads() -> None:
    cfg = HookedTransformerConfig(12, 3, 2, 9, act_fn="gelu", d_vocab=17, ungroup_grouped_query_attention=True)
    assert (cfg.d_model, cfg.d_head, cfg.n_layers, cfg.n_ctx) == (12, 3, 2, 9)
    assert HookedTransformerConfig.unwrap(cfg) is cfg
    again = HookedTransformerConfig.unwrap(dict(n_layers=2, d_model=12, n_ctx=9, d_head=3, act_fn="gelu", d_vocab=17))
    assert isinstance(again, HookedTransformerConfig)
    assert again.replace(device=cfg.device) == again == copy.deepcopy(again) == pickle.loads(pickle.dumps(again))
    assert copy.deepcopy(cfg).ungroup_grouped_query_attention
    assert isinstance(cfg, FrozenConfig)
    assert HookedTransformerConfig(**SIZES | dict(act_fn="solu_ln")).is_layer_norm_activation()
    with pytest.raises(BadInput, match="cfg must be a HookedTransformerConfig or a mapping"):
        HookedTransformerConfig.unwrap(3)
    with pytest.raises(ConfigError, match="num_experts=3 and experts_per_token=None"):
        HookedTransformerConfig(**SIZES, num_experts=3)


def test_a_copy_of_a_model_has_a_config_of_its_own() -> None:
    model = model_of()
    other = copy.deepcopy(model)
    other.cfg.use_attn_result = True
    assert not model.cfg.use_attn_result
    assert other.cfg.use_attn_result
    assert model.blocks[0].mlp.name == "blocks.0.mlp"


def test_every_way_to_a_model_leads_to_the_class_that_is_asked(tmp_path: Path) -> None:
    model = model_of()
    model.save_pretrained(tmp_path)
    for found in (
        HookedTransformer.from_pretrained(str(tmp_path), device="cpu"),
        HookedTransformer.from_pretrained("ioi-tiny", device="cpu"),
        HookedTransformer.from_state_dict(model.state_dict(), model.cfg.to_dict()),
    ):
        assert type(found) is HookedTransformer
        found.cfg.use_hook_mlp_in = True
        assert found.cfg.use_hook_mlp_in


# ---------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("positions", ["standard", "rotary"])
@pytest.mark.parametrize("groups", [4, 2])
def test_attention_and_positions_of_a_model_are_called_alone(groups: int, positions: str) -> None:
    """Attention writes what the hook of the pass shows, also with one input per head and with padding."""
    more = dict(rotary_dim=2) if positions == "rotary" else {}
    model = model_of(n_key_value_heads=groups, positional_embedding_type=positions, **more)
    tokens = random_tokens(pos=6, d_vocab=17)
    mask = torch.ones_like(tokens)
    mask[0, :2] = 0
    for given in (None, mask):
        _, cache = model.run_with_cache(tokens, attention_mask=given)
        x, attn = cache["normalized", 1, "ln1"] * model.blocks[1].ln1.w + model.blocks[1].ln1.b, model.blocks[1].attn
        real = torch.ones_like(tokens, dtype=torch.bool) if given is None else given.bool()
        assert_close(attn(x, x, x, attention_mask=given)[real], cache["attn_out", 1][real], 1e-12)
        per_head = x[:, :, None].expand(-1, -1, 4, -1), *[x[:, :, None].expand(-1, -1, groups, -1)] * 2
        assert_close(attn(*per_head, attention_mask=given)[real], cache["attn_out", 1][real], 1e-12)
        if positions == "standard":
            shown = model.pos_embed(tokens, 0, given)
            assert_close(shown[real], cache["hook_pos_embed"].expand_as(shown)[real], 1e-12)
            assert not shown[~real].any()
    assert isinstance(attn, attention.Attention)
    with pytest.raises(BadInput, match="past_kv_cache_entry is taken by models here"):
        attn(x, x, x, past_kv_cache_entry=3)


def test_parts_are_built_alone() -> None:
    """Each computes what it does in a model with the same weights."""
    cfg = SIZES | dict(dtype=torch.float64)
    model = model_of()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    block = components.TransformerBlock(cfg, 1)
    block.load_state_dict(model.blocks[1].state_dict())
    assert_close(block(x), model(x, start_at_layer=1, stop_at_layer=2), 1e-12)
    mlp = components.MLP(cfg)
    mlp.load_state_dict(model.blocks[0].mlp.state_dict())
    assert_close(mlp(x), model.blocks[0].mlp(x), 1e-12)
    assert isinstance(model.blocks[0].mlp, components.MLP)
    assert not isinstance(model.blocks[0].mlp, components.GatedMLP)
    assert not isinstance(model.embed, components.Unembed)
    assert components.Embed(cfg)(random_tokens(d_vocab=17)).dtype == torch.float64
    with pytest.raises(ConfigError, match="d_mlp must be set"):
        components.MLP(cfg | dict(attn_only=True))
    with pytest.raises(ConfigError, match="num_experts and experts_per_token must be set"):
        components.MoE(cfg)


def test_a_gated_mlp_adds_its_bias_after_the_product() -> None:
    mlp: Any = components.GatedMLP(SIZES | dict(act_fn="silu", dtype=torch.float64))
    redraw(mlp)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    post = torch.nn.functional.silu(x @ mlp.W_gate) * (x @ mlp.W_in) + mlp.b_in
    assert_close(mlp(x), post @ mlp.W_out + mlp.b_out, 1e-12)
    assert set(mlp.state_dict()) == {"W_gate", "W_in", "b_in", "W_out", "b_out"}


def test_grouped_attention_alone_is_attention_with_copies() -> None:
    cfg = SIZES | dict(n_key_value_heads=2, dtype=torch.float64)
    grouped, every = attention.GroupedQueryAttention(cfg), attention.Attention(cfg)
    redraw(grouped)
    state = grouped.state_dict()
    assert state["mask"].shape == (0, 0)
    assert state["IGNORE"] == -torch.inf
    every.load_state_dict(every.state_dict() | {"mask": torch.ones(9, 9, dtype=torch.bool)})
    assert every.mask.shape == (0, 0)
    renamed = {f"_{name}" if name[2:] in ("K", "V") else name: one for name, one in state.items()}
    grouped.load_state_dict(renamed)
    copies = {name: one.repeat_interleave(2, 0) if name[2:] in ("K", "V") else one for name, one in state.items()}
    every.load_state_dict(copies)
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    assert_close(grouped(x, x, x), every(x, x, x), 1e-12)
    with pytest.raises(ConfigError, match="attn_type must be 'global' or 'local', got 'near'"):
        attention.Attention(cfg, "near")


def test_alibi_slopes_are_those_of_the_paper() -> None:
    eight = attention.Attention.create_alibi_multipliers(8)
    assert_close(eight, 2.0 ** -torch.arange(1, 9), 1e-6)
    twelve = attention.Attention.create_alibi_multipliers(12)
    assert_close(twelve[8:], 2.0 ** -torch.tensor([0.5, 1.5, 2.5, 3.5]), 1e-6)
    bias = attention.Attention.create_alibi_bias(8, 3)
    assert bias[1].tolist() == [[0, 0, 0], [-0.25, 0, 0], [-0.5, -0.25, 0]]


def test_linear_maps_of_heads() -> None:
    model = model_of()
    x, attn = torch.randn(2, 5, 12, dtype=torch.float64), model.blocks[0].attn
    alone = attention.simple_attn_linear(x, attn.W_Q, attn.b_Q)
    assert_close(alone, torch.stack([x @ W + b for W, b in zip(attn.W_Q, attn.b_Q, strict=True)], 2), 1e-12)
    assert_close(attention.complex_attn_linear(x[:, :, None].expand(-1, -1, 4, -1), attn.W_Q, attn.b_Q), alone, 1e-12)


# --------------------------------------------------------------------------------------------------------------- caches


def test_a_cache_is_read_by_layer() -> None:
    model = model_of(n_key_value_heads=2)
    tokens = random_tokens(pos=6, d_vocab=17)
    cache = TransformerLensKeyValueCache.init_cache(model.cfg, "cpu", 2)
    assert isinstance(cache, KeyValueCache)
    assert [entry.past_keys.shape for entry in cache.entries] == [(2, 0, 2, 3)] * 2
    assert cache[1].past_values.dtype == torch.float64
    again = TransformerLensKeyValueCache(cache.entries)
    assert_close(model(tokens[:, :4], past_kv_cache=again), model(tokens)[:, :4], 1e-10)
    assert get_pos_offset(cache, 2) == get_pos_offset(None, 2) == 0
    logits = model(tokens[:, :4], past_kv_cache=cache)
    assert_close(logits, model(tokens)[:, :4], 1e-10)
    assert get_pos_offset(cache, 2) == 4
    assert cache.previous_attention_mask.tolist() == [[1] * 4] * 2
    values = model.run_with_cache(tokens[:, :4])[1]["v", 1]
    assert len(cache.entries) == 2
    assert_close(cache[1].past_values, values, 1e-12)
    filled = TransformerLensKeyValueCache(cache.entries)
    assert_close(model(tokens[:, 4:], past_kv_cache=filled), model(tokens)[:, 4:], 1e-10)
    with pytest.raises(BadInput, match="passes have filled this cache"):
        cache.append_attention_mask(torch.ones(2, 1, dtype=torch.long))


def test_an_entry_and_a_mask_grow_unless_frozen() -> None:
    cfg = HookedTransformerConfig(**SIZES | dict(dtype=torch.float16, n_key_value_heads=2))
    entry = TransformerLensKeyValueCacheEntry.init_cache_entry(cfg, "cpu", 3)
    assert entry.past_keys.shape == (3, 0, 2, 3)
    assert entry.past_keys.dtype == torch.float16
    new = torch.ones(3, 2, 2, 3, dtype=torch.float16)
    assert entry.append(new, new)[0].shape[1] == entry.past_values.shape[1] == 2
    entry.frozen = True
    assert entry.append(new, new)[1].shape[1] == 4
    assert entry.past_keys.shape[1] == 2
    cache = TransformerLensKeyValueCache()
    cache.append_attention_mask(torch.tensor([[0, 1]]))
    cache.freeze()
    assert cache.append_attention_mask(torch.tensor([[1]])).tolist() == [[0, 1, 1]]
    assert cache.previous_attention_mask.tolist() == [[0, 1]]


# ------------------------------------------------------------------------------------------------------- text, and more


def test_the_tokenizer_has_all_special_tokens(gpt2_tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    """On a copy: the one that was given stays as it is."""
    assert gpt2_tokenizer.pad_token is None
    model = HookedTransformer(SIZES | dict(d_vocab=-1), tokenizer=gpt2_tokenizer)
    assert model.tokenizer.pad_token == model.tokenizer.bos_token == "<|endoftext|>"
    assert model.tokenizer.encode("a")[0] == model.tokenizer.bos_token_id
    assert gpt2_tokenizer.pad_token is None
    assert model.get_token_position(3, torch.tensor([5.0, 3.0])) == 1
    with unchecked_types(), pytest.raises(BadInput, match="token ids are integers"):
        model.get_token_position(3, torch.tensor([5.5, 3.0]))
    model.tokenizer = word_tokenizer()
    assert model.tokenizer.get_vocab() == word_tokenizer().get_vocab()
    gpt2_tokenizer.save_pretrained(tmp_path)
    named = HookedTransformer(SIZES | dict(d_vocab=-1, tokenizer_name=str(tmp_path)))
    assert named.tokenizer.vocab_size == AutoTokenizer.from_pretrained(tmp_path).vocab_size
    _, tokens, beside, mask = named.input_to_embed("Hi there")
    assert beside is None
    assert mask.all()
    assert mask.shape == tokens.shape


def test_an_encoder_from_the_config_of_a_decoder() -> None:
    model = HookedEncoder(HookedTransformerConfig(**SIZES))
    assert all(getattr(model.cfg, name) == value for name, value in BERT.items())
    redraw(model)
    tokens = random_tokens(pos=5, d_vocab=17)
    changed = tokens.clone()
    changed[:, -1] = (tokens[:, -1] + 1) % 17
    assert not torch.allclose(model(tokens)[:, 0], model(changed)[:, 0]), "the first token sees the last"


def test_the_svd_interpreters_arguments_and_errors() -> None:
    model = model_of()
    interpreter = SVDInterpreter(model)
    for head in (None, 3):
        found = interpreter.get_singular_vectors("w_in", 1, 2, head_index=head)
        assert_close(found, interpreter.get_singular_vectors("w_in", 1, 2), 1e-12)
    for arguments, message in (
        (("OV", 0), "Head index optional only for w_in and w_out, got OV"),
        (("w_out", 2), "Layer index must be between 0 and 1 but got 2"),
        (("OV", 0, 1, 4), "Head index must be between 0 and 3 but got 4"),
    ):
        with pytest.raises(AssertionError, match=message):
            interpreter.get_singular_vectors(*arguments)


def test_whether_a_sentence_follows_another(tmp_path: Path) -> None:
    """Logits are HuggingFace's own; the pooler and the head are read when they are first needed."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "a", "mat"]
    tokenizer = BertTokenizer(vocab={word: id for id, word in enumerate(words)})
    sizes = dict(
        hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, vocab_size=len(words)
    )
    hf = BertForPreTraining(BertConfig(**sizes, attn_implementation="eager")).eval()
    redraw(hf)
    hf.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("BertForPreTraining", "BertForMaskedLM"))  # as on the hub
    tokenizer.save_pretrained(tmp_path)
    model = HookedEncoder.from_pretrained(str(tmp_path), device="cpu")
    asked, pair = BertNextSentencePrediction(model), ["the cat sat", "on a mat"]
    batch = tokenizer(*pair, return_tensors="pt")
    theirs = hf(**batch).seq_relationship_logits
    assert_close(asked(pair), theirs, 1e-5)
    mask = dict(token_type_ids=batch.token_type_ids, one_zero_attention_mask=batch.attention_mask)
    assert_close(asked(batch.input_ids, **mask), theirs, 1e-5)
    words_for = ("The sentences are sequential", "The sentences are NOT sequential")
    assert asked(pair, return_type="predictions") == words_for[int(theirs.argmax())]
    assert asked(pair, return_type=None) is None
    logits, cache = asked.run_with_cache(pair)
    assert_close(logits, theirs, 1e-5)
    assert torch.equal(cache["nsp_head.hook_nsp_out"], logits)
    assert cache["pooler.hook_pooler_out"].shape == (1, 12)
    assert_close(model(batch.input_ids, **mask), hf(**batch).prediction_logits, 1e-5)
    with pytest.raises(BadInput, match="exactly two sentences"):
        asked(["one"])
    with pytest.raises(BadInput, match="without specifying token_type_ids"):
        asked(batch.input_ids)
