"""`TransformerBridge` under `compat`: a checkpoint as it is, then processed, under a bridge's names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
)

from interp_hooks.compat.bridge import HOOKS, TransformerBridge
from interp_hooks.compat.classes import HookedEncoder
from interp_hooks.compat.model import HookedTransformer
from interp_hooks.errors import BadInput, UnknownHook
from interp_hooks.hooks.points import HookPoint
from tests.tiny import assert_close, random_tokens, redraw

SIZES = dict[str, Any](n_layer=2, n_head=2, n_embd=8, n_positions=12, vocab_size=17)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = GPT2LMHeadModel(GPT2Config(**SIZES))
    redraw(model)
    model.save_pretrained(folder := tmp_path_factory.mktemp("gpt2"))
    return folder


def test_a_bridge_is_the_checkpoint_until_it_is_processed(checkpoint: Path) -> None:
    tokens = random_tokens(d_vocab=17)
    theirs = GPT2LMHeadModel.from_pretrained(checkpoint)
    bridge = TransformerBridge.boot_transformers(str(checkpoint), device="cpu")
    assert_close(bridge(tokens), theirs(tokens).logits, within=1e-5)
    assert bridge.cfg.normalization_type == "LN"
    bridge.enable_compatibility_mode(no_processing=True)
    assert bridge.cfg.normalization_type == "LN"
    bridge.enable_compatibility_mode(disable_warnings=True)
    processed = HookedTransformer.from_pretrained(str(checkpoint), device="cpu")
    for name, weight in processed.named_parameters():
        torch.testing.assert_close(bridge.tl_parameters()[name], weight)
    assert [name for name, _ in bridge.tl_named_parameters()] == list(bridge.tl_parameters())


def test_a_bridges_names_of_hooks(checkpoint: Path) -> None:
    bridge = TransformerBridge.boot_transformers(str(checkpoint), device="cpu")
    names = {
        "blocks.1.hook_in": "blocks.1.hook_resid_pre",
        "blocks.1.hook_out": "blocks.1.hook_resid_post",
        "blocks.1.attn.hook_out": "blocks.1.hook_attn_out",
        "blocks.1.mlp.hook_out": "blocks.1.hook_mlp_out",
        "blocks.1.attn.q.hook_out": "blocks.1.attn.hook_q",
        "blocks.1.attn.o.hook_in": "blocks.1.attn.hook_z",
        "blocks.1.mlp.in.hook_out": "blocks.1.mlp.hook_pre",
        "blocks.1.mlp.out.hook_in": "blocks.1.mlp.hook_post",
        "embed.hook_out": "hook_embed",
        "pos_embed.hook_out": "hook_pos_embed",
    }
    assert len(names) >= len(HOOKS)
    called: list[str] = []

    def note(value: Tensor, hook: HookPoint) -> None:
        called.append(hook.name)

    bridge.run_with_hooks(random_tokens(d_vocab=17), fwd_hooks=[(name, note) for name in names])
    assert sorted(called) == sorted(names.values())
    with pytest.raises(UnknownHook, match="hook_inn"):
        bridge.add_hook("blocks.1.hook_inn", note)


def test_what_a_bridge_is_not_given(checkpoint: Path) -> None:
    given: list[dict[str, Any]] = [
        dict(load_weights=False),
        dict(n_devices=2),
        dict(hf_config_overrides={"n_layer": 1}),
        dict(model_class=GPT2LMHeadModel),
    ]
    for refused in given:
        with pytest.raises(BadInput, match=f"got .*{next(iter(refused))}"):
            TransformerBridge.boot_transformers(str(checkpoint), **refused)


def saved_bert(kind: type[PreTrainedModel], folder: Path) -> Any:
    """A small BERT with random weights, which is saved in a folder too."""
    sizes = dict[str, Any](
        hidden_size=8, num_attention_heads=2, intermediate_size=12, vocab_size=17, num_hidden_layers=2
    )
    made: Any = kind(BertConfig(**sizes)).eval()
    redraw(made)
    made.save_pretrained(folder)
    return made


def test_a_bridge_to_an_encoder(tmp_path: Path) -> None:
    theirs = saved_bert(BertForMaskedLM, tmp_path)
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu")
    assert isinstance(bridge, TransformerBridge)
    assert isinstance(bridge, HookedEncoder)
    tokens = random_tokens(d_vocab=17)
    before = bridge(tokens).log_softmax(-1)
    assert_close(before, theirs(tokens).logits.log_softmax(-1), within=1e-5)
    bridge.enable_compatibility_mode()
    assert_close(bridge(tokens).log_softmax(-1), before, within=1e-5)


def test_a_bridge_for_pairs_of_sentences(tmp_path: Path) -> None:
    """Its answers are HuggingFace's, processed or not."""
    theirs = saved_bert(BertForPreTraining, tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace("BertForPreTraining", "BertForMaskedLM"))  # as on the hub
    bridge = TransformerBridge.boot_transformers(str(tmp_path), device="cpu", model_class=BertForNextSentencePrediction)
    tokens = random_tokens(d_vocab=17)
    given = dict[str, Any](token_type_ids=(torch.arange(tokens.shape[1]) > 2).long().expand(tokens.shape))
    given["attention_mask"] = torch.ones_like(tokens)
    given["attention_mask"][0, -2:] = 0
    expected = theirs(tokens, **given).seq_relationship_logits
    for process in (lambda: None, bridge.enable_compatibility_mode):
        process()
        assert_close(bridge(tokens, **given), expected, within=1e-5)
    first = {name: value[:1] for name, value in given.items()}
    answers = ("The sentences are sequential", "The sentences are NOT sequential")
    assert bridge(tokens[:1], return_type="predictions", **first) == answers[int(expected[0].argmax())]
    logits, cache = bridge.run_with_cache(tokens, **given)
    assert torch.equal(cache["nsp_head.hook_nsp_out"], logits)


def test_a_function_of_names_passes_by_what_flags_leave_out(checkpoint: Path) -> None:
    """So that a backward function at all hooks but `_input` leaves each norm one stream, as in old code."""
    model = HookedTransformer.from_pretrained(str(checkpoint), device="cpu")
    tokens, gradients = random_tokens(d_vocab=17), dict[str, Tensor]()
    model.add_hook(lambda name: "_input" not in name, lambda grad, hook: gradients.update({hook.name: grad}), "bwd")
    model(tokens, return_type="loss").backward()
    assert "blocks.0.ln1.hook_scale" in gradients
    assert "blocks.0.hook_attn_in" not in gradients
    model.reset_hooks()
    assert [point.name for point in model.points(lambda name: name.endswith("0.hook_mlp_in"))] == [
        "blocks.0.hook_mlp_in"
    ]
    assert [point.name for point in model.points(["blocks.0.hook_mlp_in"])] == ["blocks.0.hook_mlp_in"]
    model.set_use_hook_mlp_in(True)
    assert "blocks.0.hook_mlp_in" in [point.name for point in model.points(lambda name: "0.hook_mlp" in name)]
