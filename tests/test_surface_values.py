"""Calls of the field's surface, as a user makes them, against arithmetic written out here.

For those that other files test through the functions behind them, or against activations of the package alone.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp_hooks.loading.load as load_module
from interp_hooks import ActivationCache, HookedTransformer
from interp_hooks.corpus import lm_accuracy
from interp_hooks.errors import BadInput, ConfigError
from interp_hooks.model import lm_cross_entropy_loss
from tests.children import run_in_a_child
from tests.model.test_tokens import CAT, SAT, THE, word_tokenizer
from tests.tiny import assert_close, build, fresh_hf, hf_logits, log_probs, our_logits, random_tokens, shared_hf

EXACT = 1e-10  # sums of a few dozen float64 numbers
TOKENS = random_tokens(batch=3, pos=6, d_vocab=19)
PAD = 2

# -------------------------------------------------------------------------------------------------------------- loading


def load(**options: Any) -> HookedTransformer:
    return HookedTransformer.from_pretrained("tiny", hf_model=shared_hf("gpt2"), **options)


def test_a_loaded_model_reads_as_asked() -> None:
    tokenizer = word_tokenizer(pad=True)
    texts = ["the cat", "sat"]
    usual = load(tokenizer=tokenizer)
    assert usual.tokenizer is tokenizer
    assert usual.to_tokens(texts).tolist() == [[0, THE, CAT], [0, SAT, PAD]]
    left = load(tokenizer=tokenizer, default_padding_side="left")
    assert left.to_tokens(texts).tolist() == [[0, THE, CAT], [PAD, 0, SAT]]
    without = load(tokenizer=tokenizer, default_prepend_bos=False)
    assert without.to_tokens(texts).tolist() == [[THE, CAT], [SAT, PAD]]
    assert without.cfg.default_prepend_bos is False


def test_where_a_loaded_model_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU if that is asked for, though there seems to be a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for options in (dict(device="cpu"), dict(device=torch.device("cpu")), dict(move_to_device=False)):
        model = load(**options)
        assert {weight.device.type for weight in model.parameters()} == {"cpu"}
        assert model.cfg.device == model.device == torch.device("cpu")
    assert load(device="cuda", move_to_device=False).device == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "options", "revision"),
    [
        ("pythia-70m", dict(checkpoint_value=3000), "step3000"),
        ("pythia-70m", dict(checkpoint_label=3000), "step3000"),
        ("pythia-70m", dict(checkpoint_index=0), "step0"),
        ("pythia-70m", dict(checkpoint_index=4), "step8"),  # after 0, 1, 2 and 4
        ("pythia-70m", dict(checkpoint_index=153), "step143000"),
        ("stanford-crfm/alias-gpt2-small-x21", dict(checkpoint_value=400_000), "checkpoint-400000"),
        ("stanford-crfm/alias-gpt2-small-x21", dict(checkpoint_index=11), "checkpoint-150"),
        ("pythia-70m", {}, None),
    ],
)
def test_checkpoints_of_a_training_run(
    name: str, options: dict[str, int], revision: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    monkeypatch.setattr(load_module, "load_pretrained", lambda cls, chosen, steps: asked.append(chosen.revision))
    HookedTransformer.from_pretrained(name, **options)
    assert asked == [revision]
    with pytest.raises(BadInput, match="checkpoint of step 3001; the nearest is 3000"):
        HookedTransformer.from_pretrained("pythia-70m", checkpoint_value=3001)


def test_other_arguments_go_to_transformers(tmp_path: Path) -> None:
    hf = fresh_hf("gpt2")
    hf.save_pretrained(tmp_path, variant="small")
    model = HookedTransformer.from_pretrained_no_processing(str(tmp_path), variant="small")
    assert_close(our_logits(model, TOKENS), hf_logits(hf, TOKENS), 1e-5)  # float32
    with pytest.raises(BadInput, match=r"passes variant, varient on to transformers, which .* argument 'varient'"):
        HookedTransformer.from_pretrained(str(tmp_path), variant="small", varient="small")


def test_what_a_model_of_ones_own_is_made_of() -> None:
    cfg = build().cfg.replace(device="meta")
    for config in (cfg, cfg.to_dict()):
        model = HookedTransformer(config, word_tokenizer(pad=True), move_to_device=False, default_padding_side="left")
        assert {weight.device.type for weight in model.parameters()} == {"cpu"}
        assert model.to_tokens(["the cat", "sat"]).tolist() == [[0, THE, CAT], [PAD, 0, SAT]]
    assert {weight.device.type for weight in HookedTransformer(cfg).parameters()} == {"meta"}


# ---------------------------------------------------------------------------------------------- processing, by formulas


def copied(model: HookedTransformer) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def folded(before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gains and biases of LayerNorms in what reads them, whose columns then lose their mean."""
    expected: dict[str, Tensor] = {}
    for at in range(3):
        b, w = before[f"blocks.{at}.ln1.b"], before[f"blocks.{at}.ln1.w"]
        for letter in "QKV":
            weight = before[f"blocks.{at}.attn.W_{letter}"]
            scaled = weight * w[:, None]
            expected[f"blocks.{at}.attn.W_{letter}"] = scaled - scaled.mean(1, keepdim=True)
            bias = before[f"blocks.{at}.attn.b_{letter}"]
            expected[f"blocks.{at}.attn.b_{letter}"] = bias + torch.einsum("d,hdk->hk", b, weight)
        b, w, weight = (before[f"blocks.{at}.{name}"] for name in ("ln2.b", "ln2.w", "mlp.W_in"))
        scaled = weight * w[:, None]
        expected[f"blocks.{at}.mlp.W_in"] = scaled - scaled.mean(0)
        expected[f"blocks.{at}.mlp.b_in"] = before[f"blocks.{at}.mlp.b_in"] + b @ weight
    scaled = before["unembed.W_U"] * before["ln_final.w"][:, None]
    expected["unembed.W_U"] = scaled - scaled.mean(0)
    expected["unembed.b_U"] = before["unembed.b_U"] + before["ln_final.b"] @ before["unembed.W_U"]
    return expected


def centred_writers(before: dict[str, Tensor]) -> dict[str, Tensor]:
    names = ["embed.W_E", "pos_embed.W_pos"]
    for at in range(3):
        names += [f"blocks.{at}.{name}" for name in ("attn.W_O", "attn.b_O", "mlp.W_out", "mlp.b_out")]
    return {name: before[name] - before[name].mean(-1, keepdim=True) for name in names}


def centred_unembedding(before: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: before[name] - before[name].mean(-1, keepdim=True) for name in ("unembed.W_U", "unembed.b_U")}


def without_value_biases(before: dict[str, Tensor]) -> dict[str, Tensor]:
    expected: dict[str, Tensor] = {}
    for at in range(3):
        b_V, W_O, b_O = (before[f"blocks.{at}.attn.{name}"] for name in ("b_V", "W_O", "b_O"))
        expected[f"blocks.{at}.attn.b_V"] = torch.zeros_like(b_V)
        expected[f"blocks.{at}.attn.b_O"] = b_O + torch.einsum("hk,hkd->d", b_V, W_O)
    return expected


FORMULAS: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    "fold_ln": folded,
    "center_writing_weights": centred_writers,
    "center_unembed": centred_unembedding,
    "fold_value_biases": without_value_biases,
}
OFF = dict.fromkeys(FORMULAS, False)


def assert_changed(after: dict[str, Tensor], before: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """What is expected, and nothing else but gains and biases of norms."""
    for name, weight in after.items():
        if name in expected:
            assert float((weight - expected[name]).abs().max()) < EXACT, name
            assert not torch.equal(expected[name], before[name]), name
        elif not re.search(r"ln.*\.[wb]$", name):
            assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("step", FORMULAS)
def test_each_step_in_place(own: HookedTransformer, step: str) -> None:
    before, logits = copied(own), log_probs(our_logits(own, TOKENS))
    own.process_weights_(**OFF | {step: True})
    assert_changed(copied(own), before, FORMULAS[step](before))
    assert_close(log_probs(our_logits(own, TOKENS)), logits, EXACT)
    assert [line for line in own.processing_report() if line.endswith("applied")] == [f"{step}: applied"]


@pytest.mark.parametrize("step", FORMULAS)
def test_a_state_dict_is_loaded_and_processed(step: str) -> None:
    given, model = build().state_dict(), build(seed=4)
    before = {name: weight.clone() for name, weight in given.items()}
    model.load_and_process_state_dict(given, **OFF | {step: True})
    assert_changed(copied(model), before, FORMULAS[step](before))
    assert_close(log_probs(our_logits(model, TOKENS)), log_probs(our_logits(build(), TOKENS)), EXACT)
    assert all(torch.equal(weight, before[name]) for name, weight in given.items()), "what was given stays"


def test_folded_norms(own: HookedTransformer) -> None:
    before = copied(own)
    assert_changed(own.fold_layer_norm(own.state_dict()), before, folded(before))
    assert_changed(own.fold_layer_norm(own.state_dict(), True, True), before, folded(before))
    uncentred = own.fold_layer_norm(own.state_dict(), center_weights=False)
    W_in, w = before["blocks.1.mlp.W_in"], before["blocks.1.ln2.w"]
    assert_close(uncentred["blocks.1.mlp.W_in"], W_in * w[:, None], EXACT)
    with pytest.raises(ConfigError, match="would change what the model computes"):
        own.fold_layer_norm(own.state_dict(), fold_biases=False)


def test_centred_writers(own: HookedTransformer) -> None:
    before = copied(own)
    assert_changed(own.center_writing_weights(own.state_dict()), before, centred_writers(before))


def test_centred_unembedding(own: HookedTransformer) -> None:
    before = copied(own)
    assert_changed(own.center_unembed(own.state_dict()), before, centred_unembedding(before))


def test_folded_value_biases(own: HookedTransformer) -> None:
    before = copied(own)
    assert_changed(own.fold_value_biases(own.state_dict()), before, without_value_biases(before))


def test_refactored_heads(own: HookedTransformer) -> None:
    """Scores and outputs of every head are what they were, and the rows of W_O orthonormal."""
    before = copied(own)
    after = own.refactor_factored_attn_matrices(own.state_dict())
    for at in range(3):
        (W_Q, b_Q, W_K, b_K, W_V, W_O), (new_Q, new_bQ, new_K, new_bK, new_V, new_O) = (
            [state[f"blocks.{at}.attn.{name}"] for name in ("W_Q", "b_Q", "W_K", "b_K", "W_V", "W_O")]
            for state in (before, after)
        )
        x, y = torch.randn(2, 4, 5, 12, dtype=torch.float64)
        scores = (x @ W_Q + b_Q[:, None]) @ (y @ W_K + b_K[:, None]).mT
        assert_close((x @ new_Q + new_bQ[:, None]) @ (y @ new_K + new_bK[:, None]).mT, scores, EXACT)
        assert_close(x @ new_V @ new_O, x @ W_V @ W_O, EXACT)
        assert_close(new_O @ new_O.mT, torch.eye(4, dtype=torch.float64).expand(4, 4, 4), EXACT)
        assert not torch.allclose(new_Q, W_Q)


# -------------------------------------------------------------------------------------------------------------- caches


@pytest.fixture(scope="module")
def ran() -> tuple[HookedTransformer, dict[str, Tensor], ActivationCache]:
    """A model, what its blocks wrote and read as hooks saw it, and the cache of the same pass."""
    model, seen = build(), dict[str, Tensor]()
    names = [name for name in model.hook_dict if name.endswith(("embed", "resid_pre", "resid_mid", "_out", "hook_z"))]
    with torch.no_grad(), model.hooks([(name, lambda x, hook: seen.update({hook.name: x})) for name in names]):
        seen["final"] = model(TOKENS, stop_at_layer=3)
        _, cache = model.run_with_cache(TOKENS)
    return model, seen, cache


def scale(x: Tensor) -> Tensor:
    return (x.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()


def read_as(part: Tensor, stream: Tensor, gain: Tensor) -> Tensor:
    """A part of a stream, centred, divided by the stream's own deviation, times the norm's gain."""
    return (part - part.mean(-1, keepdim=True)) / scale(stream) * gain


@pytest.mark.parametrize("mode", ["all", "attn", "mlp"])
@pytest.mark.parametrize("incl_embeds", [True, False])
def test_parts_of_the_stream(ran: Any, mode: str, incl_embeds: bool) -> None:
    model, seen, cache = ran
    parts = {"embed": seen["hook_embed"], "pos_embed": seen["hook_pos_embed"]} if incl_embeds else {}
    for at in (0, 1):
        for sublayer in ("attn", "mlp"):
            if mode in ("all", sublayer):
                parts[f"{at}_{sublayer}_out"] = seen[f"blocks.{at}.hook_{sublayer}_out"]
    options = dict(mode=mode, incl_embeds=incl_embeds, return_labels=True)
    found, labels = cache.decompose_resid(2, **options)
    assert labels == list(parts)
    assert_close(found, torch.stack(list(parts.values())), EXACT)
    last, _ = cache.decompose_resid(2, pos_slice=-1, **options)
    assert_close(last, torch.stack(list(parts.values()))[:, :, -1], EXACT)
    norm, stream = model.blocks[2].ln1, seen["blocks.2.hook_resid_pre"]
    normalized, labels = cache.decompose_resid(2, apply_ln=True, **options)
    assert labels == [*parts, "bias"]
    expected = [*(read_as(part, stream, norm.w) for part in parts.values()), norm.b.expand_as(stream)]
    assert_close(normalized, torch.stack(expected), EXACT)
    with_attention, labels = cache.decompose_resid(2, mlp_input=True, return_labels=True)
    assert labels[-1] == "2_attn_out"
    assert_close(with_attention[-1], seen["blocks.2.hook_attn_out"], EXACT)


def test_streams_up_to_a_layer(ran: Any) -> None:
    model, seen, cache = ran
    streams = {f"{at}_{where}": seen[f"blocks.{at}.hook_resid_{where}"] for at in range(3) for where in ("pre", "mid")}
    found, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == [*streams, "final_post"]
    assert_close(found, torch.stack([*streams.values(), seen["final"]]), EXACT)
    chosen, labels = cache.accumulated_resid(1, mlp_input=True, apply_ln=True, pos_slice=(1, 4), return_labels=True)
    assert labels == ["0_pre", "1_pre", "1_mid"]
    norm = model.blocks[1].ln2
    expected = torch.stack([read_as(streams[label], streams[label], norm.w) + norm.b for label in labels])
    assert_close(chosen, expected[:, :, 1:4], EXACT)


def test_what_each_head_adds(ran: Any) -> None:
    model, seen, cache = ran
    heads = {
        f"L{at}H{head}": seen[f"blocks.{at}.attn.hook_z"][:, :, head] @ model.blocks[at].attn.W_O[head]
        for at in (0, 1)
        for head in range(4)
    }
    stream = seen["blocks.2.hook_resid_pre"]
    by_hand = torch.stack([*heads.values(), stream - sum(heads.values())])
    found, labels = cache.stack_head_results(2, True, True)
    assert labels == [*heads, "remainder"]
    assert_close(found, by_hand, EXACT)
    assert_close(cache.stack_head_results(2, pos_slice=-1), by_hand[:-1, :, -1], EXACT)
    norm = model.blocks[2].ln1
    normalized, labels = cache.stack_head_results(2, return_labels=True, incl_remainder=True, apply_ln=True)
    assert labels == [*heads, "remainder", "bias"]
    assert_close(normalized[:-1], torch.stack([read_as(part, stream, norm.w) for part in by_hand]), EXACT)


def test_head_results_are_put_into_the_cache(ran: Any) -> None:
    model, seen, whole = ran
    cache = whole.apply_slice_to_batch_dim(None)
    cache.compute_head_results()
    for at in range(3):
        expected = torch.einsum("bphk,hkd->bphd", seen[f"blocks.{at}.attn.hook_z"], model.blocks[at].attn.W_O)
        assert_close(cache["result", at], expected, EXACT)


def test_a_caching_run_may_keep_its_hooks_and_clear_contexts(own: HookedTransformer) -> None:
    own.hook_dict["hook_embed"].ctx["remembered"] = 1
    _, cache = own.run_with_cache(TOKENS, names_filter="embed", reset_hooks_end=False, return_cache_object=False)
    assert own.hook_dict["hook_embed"].ctx == {"remembered": 1}
    own(TOKENS[:1])
    assert torch.equal(cache["hook_embed"], own.W_E[TOKENS[:1]]), "of the pass after it"
    own.reset_hooks(clear_contexts=False)
    _, again = own.run_with_cache(TOKENS, names_filter="embed", clear_contexts=True)
    assert own.hook_dict["hook_embed"].ctx == {}
    own(TOKENS[:1])
    assert torch.equal(again["hook_embed"], own.W_E[TOKENS])


# ------------------------------------------------------------------------------------------------------------- helpers


def test_loss_and_accuracy_by_hand() -> None:
    logits = torch.randn(2, 5, 7, dtype=torch.float64)
    tokens, mask = random_tokens(2, 5, 7), torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    losses = torch.zeros(2, 4, dtype=torch.float64)
    for row in range(2):
        for place in range(4):
            chances = logits[row, place].exp() / logits[row, place].exp().sum()
            losses[row, place] = -chances[tokens[row, place + 1]].log()
    assert_close(lm_cross_entropy_loss(logits, tokens, per_token=True), losses, EXACT)
    assert_close(lm_cross_entropy_loss(logits, tokens), losses.mean(), EXACT)
    real = torch.cat((losses[0], losses[1, 2:]))
    assert_close(lm_cross_entropy_loss(logits, tokens, mask), real.mean(), EXACT)
    best = [[max(range(7), key=logits[row, place].tolist().__getitem__) for place in range(4)] for row in range(2)]
    assert lm_accuracy(logits, tokens, per_token=True).tolist() == (torch.tensor(best) == tokens[:, 1:]).tolist()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("HookedEncoderDecoder", "no part here has cross-attention"),
        ("HookedAudioEncoder", "and no others"),
        ("components.BertPooler", "encoders with a masked language model's head, and no others"),
    ],
)
def test_what_has_no_counterpart_says_so(name: str, said: str) -> None:
    submodule, _, last = f"transformer_lens.{name}".rpartition(".")
    code = f"from interp_hooks import compat; compat.install(); from {submodule} import {last}"
    done = run_in_a_child(code)
    assert done.returncode == 1
    assert f"ImportError: interp_hooks has no counterpart of transformer_lens.{name}" in done.stderr
    assert said in done.stderr
