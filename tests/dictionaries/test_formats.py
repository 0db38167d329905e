"""Every format is read as its own library computes: random weights, a forward pass written by hand, d unlike F."""

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from interp_hooks import dictionaries
from interp_hooks.dictionaries import SAE, Crosscoder, CrossLayerTranscoder, Dictionary, Transcoder
from interp_hooks.dictionaries.formats import FORMATS
from interp_hooks.errors import BadInput, CheckpointError, UnsupportedConfig, WeightMismatch
from tests.dictionaries.random_ones import KINDS, D, F, cross_layer, crosscoder, randoms, sae, transcoder
from tests.tiny import assert_close, unchecked_types

X = randoms(9)(40, D)
DRAW = randoms(5)
W_ENC, B_ENC, W_DEC, B_DEC = DRAW(D, F), DRAW(F), DRAW(F, D), DRAW(D)
THRESHOLD, SKIP = DRAW(F).abs(), DRAW(D, D)
NORMS = W_DEC.norm(dim=-1)


def top_k(pre: Tensor, k: int) -> Tensor:
    kept = pre.topk(k, dim=-1)
    return torch.zeros_like(pre).scatter(-1, kept.indices, kept.values.relu())


def write(folder: Path, config: dict[str, Any] | None, name: str, weights: dict[str, Tensor], cfg: str = "cfg.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / cfg).write_text(json.dumps(config))
    weights = {key: value.contiguous() for key, value in weights.items()}
    torch.save(weights, folder / name) if name.endswith("pt") else save_file(weights, folder / name)
    return folder


def check(found: Dictionary, features: Tensor, out: Tensor, hook: str, hook_out: str | None = None) -> None:
    assert_close(found.encode(X), features, 1e-12)
    assert_close(found(X), out, 1e-12)
    assert (found.hooks_in, found.hooks_out) == ((hook,), (hook_out or hook,))
    assert 0 < int(features.gt(0).sum()) < features.numel()


# -------------------------------------------------------------------------------------------------------------- own


@pytest.mark.parametrize("kind", [*KINDS, "transcoder", "cross_layer", "crosscoder"])
def test_own_files_lose_nothing(kind: str, tmp_path: Path) -> None:
    others = {"transcoder": transcoder, "cross_layer": cross_layer, "crosscoder": crosscoder}
    one: Any = others[kind]() if kind in others else sae(kind)
    dictionaries.save(one, tmp_path / "one.safetensors")
    back = dictionaries.load(tmp_path / "one.safetensors")
    assert type(back) is type(one)
    assert repr(back) == repr(one)
    assert all(torch.equal(value, back.tensors()[name]) for name, value in one.tensors().items())
    x = X if kind not in ("cross_layer", "crosscoder") else randoms(1)(4, 3, D)
    assert torch.equal(back(x), one(x))
    assert dictionaries.load(tmp_path / "one.safetensors", dtype=torch.float32).dtype == torch.float32


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    dictionaries.save(sae(), path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        dictionaries.load(path)
    with pytest.raises(BadInput, match=r"ends in \.safetensors"):
        dictionaries.save(sae(), tmp_path / "one.bin")


# ---------------------------------------------------------------------------------------------------------- SAELens

SAELENS = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
PRE = (X - B_DEC) @ W_ENC + B_ENC
HOOK = "blocks.2.hook_resid_post"
METADATA = {"hook_name": HOOK, "model_name": "gpt2", "sae_lens_version": "6.5.0"}


def saelens(folder: Path, architecture: str, more: dict[str, Tensor] | None = None, **config: Any) -> Path:
    return write(
        folder,
        {"architecture": architecture, "d_in": D, "d_sae": F, "metadata": METADATA, **config},
        "sae_weights.safetensors",
        SAELENS | (more or {}),
    )


def test_saelens(tmp_path: Path) -> None:
    found = dictionaries.load(saelens(tmp_path / "a", "standard"))
    check(found, PRE.relu(), PRE.relu() @ W_DEC + B_DEC, HOOK)
    assert found.facts["model_name"] == "gpt2"
    not_subtracted = dictionaries.load(saelens(tmp_path / "b", "standard", apply_b_dec_to_input=False))
    pre = X @ W_ENC + B_ENC
    check(not_subtracted, pre.relu(), pre.relu() @ W_DEC + B_DEC, HOOK)
    features = PRE.relu() * (PRE > THRESHOLD)
    check(
        dictionaries.load(saelens(tmp_path / "c", "jumprelu", {"threshold": THRESHOLD})),
        features,
        features @ W_DEC + B_DEC,
        HOOK,
    )
    features = top_k(PRE, 4)
    check(dictionaries.load(saelens(tmp_path / "d", "topk", k=4)), features, features @ W_DEC + B_DEC, HOOK)
    features = top_k(PRE * NORMS, 4)
    scaled = dictionaries.load(saelens(tmp_path / "e", "topk", k=4, rescale_acts_by_decoder_norm=True))
    check(scaled, features, (features / NORMS) @ W_DEC + B_DEC, HOOK)


def test_saelens_gated_and_normalized(tmp_path: Path) -> None:
    draw = randoms(8)
    r_mag, b_mag, b_gate = 0.2 * draw(F), draw(F), draw(F)
    weights = {name: value for name, value in SAELENS.items() if name != "b_enc"}
    weights |= {"r_mag": r_mag, "b_mag": b_mag, "b_gate": b_gate}
    path = write(
        tmp_path / "gated", {"architecture": "gated", "metadata": METADATA}, "sae_weights.safetensors", weights
    )
    centred = X - B_DEC
    features = ((centred @ W_ENC + b_gate) > 0) * (centred @ (W_ENC * r_mag.exp()) + b_mag).relu()
    check(dictionaries.load(path), features, features @ W_DEC + B_DEC, HOOK)

    path = saelens(tmp_path / "ln", "standard", normalize_activations="layer_norm")
    mean, std = X.mean(-1, keepdim=True), X.std(-1, keepdim=True)
    features = (((X - mean) / (std + 1e-5) - B_DEC) @ W_ENC + B_ENC).relu()
    check(dictionaries.load(path), features, (features @ W_DEC + B_DEC) * std + mean, HOOK)

    path = saelens(tmp_path / "scaled", "standard", normalize_activations="expected_average_only_in")
    with pytest.raises(BadInput, match="pass input_scale="):
        dictionaries.load(path)
    features = ((2.5 * X - B_DEC) @ W_ENC + B_ENC).relu()
    check(dictionaries.load(path, input_scale=2.5), features, (features @ W_DEC + B_DEC) / 2.5, HOOK)
    (path / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
    assert_close(dictionaries.load(path)(X), (features @ W_DEC + B_DEC) / 2.5, 1e-12)


def test_saelens_before_version_6(tmp_path: Path) -> None:
    config = dict(hook_point="blocks.{layer}.hook_mlp_out", hook_point_layer=3, activation_fn_str="topk", d_in=D)
    config |= dict(activation_fn_kwargs={"k": 4}, hook_point_head_index=None, normalize_activations=False)
    path = write(tmp_path / "old", config, "sae_weights.safetensors", SAELENS | {"scaling_factor": torch.ones(F)})
    features = top_k(PRE, 4)
    check(dictionaries.load(path), features, features @ W_DEC + B_DEC, "blocks.3.hook_mlp_out")


@pytest.mark.parametrize("jump", [False, True])
def test_saelens_transcoders(jump: bool, tmp_path: Path) -> None:
    more = {"W_skip": SKIP.T} | ({"threshold": THRESHOLD} if jump else {})
    metadata = {"hook_name": "blocks.2.ln2.hook_normalized", "hook_name_out": "blocks.2.hook_mlp_out"}
    path = saelens(tmp_path, "jumprelu_skip_transcoder" if jump else "skip_transcoder", more)
    config = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(config | {"metadata": metadata, "apply_b_dec_to_input": False}))
    pre = X @ W_ENC + B_ENC
    features = pre.relu() * (pre > THRESHOLD) if jump else pre.relu()
    check(
        dictionaries.load(path),
        features,
        features @ W_DEC + B_DEC + X @ SKIP,
        "blocks.2.ln2.hook_normalized",
        "blocks.2.hook_mlp_out",
    )


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu", "transcoder"])
def test_saelens_folders_are_written(kind: str, tmp_path: Path) -> None:
    one = transcoder() if kind == "transcoder" else sae(kind, b_in=None)
    dictionaries.save(one, tmp_path / "one", format="saelens")
    back = dictionaries.load(tmp_path / "one")
    assert back.facts["format"] == "saelens"
    assert torch.equal(back(X), one(X))
    assert back.hooks == one.hooks


def test_what_saelens_has_no_place_for_is_refused(tmp_path: Path) -> None:
    for one, message in (
        (sae("relu"), "another b_in"),
        (sae("topk-ranked", b_in=None), "no place for this TopK"),
        (crosscoder(), "not for a Crosscoder"),
    ):
        with pytest.raises(BadInput, match=message):
            dictionaries.save(one, tmp_path / "no", format="saelens")
    assert not (tmp_path / "no").exists()


# ------------------------------------------------------------------------------------------------------ Gemma Scope

GEMMA = {"b_enc": B_ENC, "b_dec": B_DEC, "threshold": THRESHOLD}
GEMMA_PRE = X @ W_ENC + B_ENC
GEMMA_FEATURES = GEMMA_PRE.relu() * (GEMMA_PRE > THRESHOLD)
GEMMA_OUT = GEMMA_FEATURES @ W_DEC + B_DEC


def npz(folder: Path) -> Path:
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", W_enc=W_ENC, W_dec=W_DEC, **{name: one.numpy() for name, one in GEMMA.items()})
    return folder


@pytest.mark.parametrize(
    ("repository", "hook", "out"),
    [
        ("gemma-scope-2b-pt-res", "blocks.20.hook_resid_post", None),
        ("gemma-scope-2b-pt-mlp", "blocks.20.hook_mlp_out", None),
        ("gemma-scope-2b-pt-att", "blocks.20.attn.hook_z", None),
        ("gemma-scope-2b-pt-transcoders", "blocks.20.ln2.hook_normalized", "blocks.20.hook_mlp_out"),
    ],
)
def test_gemma_scope(repository: str, hook: str, out: str | None, tmp_path: Path) -> None:
    path = npz(tmp_path / repository / "layer_20" / "width_16k" / "average_l0_71")
    check(dictionaries.load(path), GEMMA_FEATURES, GEMMA_OUT, hook, out)
    other = dictionaries.load(path / "params.npz", hook="resid_post1")
    assert other.hooks_in == ("blocks.1.hook_resid_post",)


def test_gemma_scope_with_factors_of_one(tmp_path: Path) -> None:
    """As files of some sizes have them; factors that would change features are refused."""
    path = npz(tmp_path / "gemma-scope-27b-pt-res" / "layer_20" / "width_131k")
    arrays = dict(np.load(path / "params.npz"))
    for factors in (np.ones(F), np.full(F, 1.5)):
        np.savez(path / "params.npz", **arrays, scaling_factor=factors)  # pyright: ignore[reportArgumentType]
        if float(factors[0]) == 1.0:
            check(dictionaries.load(path), GEMMA_FEATURES, GEMMA_OUT, "blocks.20.hook_resid_post")
        else:
            with pytest.raises(CheckpointError, match="scaling_factor"):
                dictionaries.load(path)


def test_gemma_scope_of_embeddings(tmp_path: Path) -> None:
    """They are of embeddings before these are multiplied by sqrt(d)."""
    found = dictionaries.load(npz(tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k"))
    assert found.hooks_in == ("hook_embed",)
    assert_close(found(X * D**0.5), GEMMA_OUT * D**0.5, 1e-12)


def test_a_file_that_does_not_say_its_hook_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pass hook="):
        dictionaries.load(npz(tmp_path / "somewhere"))


def test_gemma_scope_2(tmp_path: Path) -> None:
    weights = {"w_enc": W_ENC, "w_dec": W_DEC, **GEMMA}
    config = {"architecture": "jump_relu", "hf_hook_point_in": "model.layers.3.output", "model_name": "gemma-v3-1b"}
    path = write(tmp_path / "resid", config, "params.safetensors", weights, cfg="config.json")
    check(dictionaries.load(path), GEMMA_FEATURES, GEMMA_OUT, "blocks.3.hook_resid_post")
    config |= {"hf_hook_point_in": "model.layers.3.pre_feedforward_layernorm.output"}
    config |= {"hf_hook_point_out": "model.layers.3.post_feedforward_layernorm.output"}
    weights["affine_skip_connection"] = SKIP
    path = write(tmp_path / "mlp", config, "params.safetensors", weights, cfg="config.json")
    hooks = ("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")
    check(dictionaries.load(path), GEMMA_FEATURES, GEMMA_OUT + X @ SKIP, *hooks)
    path = write(tmp_path / "transcoder" / "layer_3_width_16k_affine", None, "params.safetensors", weights)
    check(dictionaries.load(path), GEMMA_FEATURES, GEMMA_OUT + X @ SKIP, *hooks)


def test_all_layers_of_a_gemma_scope_2_cross_layer_transcoder(tmp_path: Path) -> None:
    draw, layers = randoms(11), 3
    files = [
        {
            "w_enc": draw(D, F),
            "w_dec": draw(F, layers, D),
            "b_enc": draw(F),
            "b_dec": draw(D),
            "threshold": draw(F).abs(),
        }
        for _ in range(layers)
    ]
    for layer, one in enumerate(files):
        one["w_dec"][:, :layer] = 0
        one["threshold"] = draw(F).abs()
        write(tmp_path, None, f"params_layer_{layer}.safetensors", one)
    found, x = dictionaries.load(tmp_path), randoms(12)(4, layers, D)
    assert isinstance(found, CrossLayerTranscoder)
    assert found.n_layers == layers
    pre = [x[:, layer] @ one["w_enc"] + one["b_enc"] for layer, one in enumerate(files)]
    features = [one.relu() * (one > files[layer]["threshold"]) for layer, one in enumerate(pre)]
    for layer in range(layers):
        out = files[layer]["b_dec"] + sum(features[l] @ files[l]["w_dec"][:, layer] for l in range(layers))  # noqa: E741
        assert_close(found(x)[:, layer], out, 1e-12)


# --------------------------------------------------------------------------------------------- dictionary_learning

LINEAR = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "decoder.weight": W_DEC.T}


def learned(folder: Path, kind: str, weights: dict[str, Tensor], **trainer: Any) -> Path:
    config = {"trainer": {"dict_class": kind, "layer": 4, "lm_name": "EleutherAI/pythia-70m", **trainer}}
    return write(folder, config, "ae.pt", weights, cfg="config.json")


def test_dictionary_learning(tmp_path: Path) -> None:
    hook, k = "blocks.4.hook_resid_post", torch.tensor(4)
    cut = torch.tensor(0.7, dtype=torch.float64)
    topk, above = top_k(PRE, 4), PRE.relu() * (cut < PRE)
    cases: list[tuple[str, dict[str, Tensor], Tensor]] = [
        ("AutoEncoder", LINEAR | {"bias": B_DEC}, PRE.relu()),
        ("AutoEncoderNew", LINEAR | {"decoder.bias": B_DEC}, GEMMA_PRE.relu()),
        ("AutoEncoderTopK", LINEAR | {"b_dec": B_DEC, "k": k, "threshold": cut}, topk),
        ("BatchTopKSAE", LINEAR | {"b_dec": B_DEC, "k": k, "threshold": cut}, above),
        ("MatryoshkaBatchTopKSAE", SAELENS | {"k": k, "threshold": cut, "group_sizes": torch.tensor([5, 12])}, above),
    ]
    for kind, weights, features in cases:
        found = dictionaries.load(learned(tmp_path / kind, kind, weights))
        check(found, features, features @ W_DEC + B_DEC, hook)


def test_dictionary_learning_where_features_are_scaled(tmp_path: Path) -> None:
    hook, features = "blocks.4.hook_mlp_out", GEMMA_FEATURES * NORMS
    path = learned(tmp_path / "jump", "JumpReluAutoEncoder", SAELENS | {"threshold": THRESHOLD}, submodule_name="mlp")
    check(dictionaries.load(path), features, (features / NORMS) @ W_DEC + B_DEC, hook)
    draw = randoms(8)
    r_mag, b_mag, b_gate = 0.2 * draw(F), draw(F), draw(F)
    weights = {"encoder.weight": W_ENC.T, "decoder.weight": W_DEC.T, "decoder_bias": B_DEC}
    weights |= {"r_mag": r_mag, "mag_bias": b_mag, "gate_bias": b_gate}
    path = learned(tmp_path / "gated", "GatedAutoEncoder", weights, submodule_name="mlp_layer_4")
    encoded = (X - B_DEC) @ W_ENC
    features = ((encoded + b_gate) > 0) * (r_mag.exp() * encoded + b_mag).relu() * NORMS
    check(dictionaries.load(path), features, (features / NORMS) @ W_DEC + B_DEC, hook)


def test_a_crosscoder_of_dictionary_learning(tmp_path: Path) -> None:
    draw, x = randoms(6), randoms(7)(4, 2, D)
    W_enc, W_dec, b_enc, b_dec = draw(2, D, F), draw(2, F, D), draw(F), draw(2, D)
    weights = {"encoder.weight": W_enc, "encoder.bias": b_enc, "decoder.weight": W_dec, "decoder.bias": b_dec}
    path = learned(tmp_path, "CrossCoder", weights)
    found = dictionaries.load(path, hook="resid_post4")
    assert isinstance(found, Crosscoder)
    features = (torch.einsum("bld,ldf->bf", x, W_enc) + b_enc).relu()
    assert_close(found(x), torch.einsum("bf,lfd->bld", features, W_dec) + b_dec, 1e-12)


# --------------------------------------------------------------------------------------------------------- the others


def test_sparsify(tmp_path: Path) -> None:
    """The decoder is [feature, d]; b_dec is subtracted unless it is a transcoder; folders say which module."""
    weights = {"encoder.weight": W_ENC.T, "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    config = {"d_in": D, "k": 4, "expansion_factor": 32, "normalize_decoder": True}
    features = top_k(PRE.relu(), 4)
    for name, hook in (
        ("layers.3", "blocks.3.hook_resid_post"),
        ("layers.3.mlp", "blocks.3.hook_mlp_out"),
        ("h.11.attn", "blocks.11.hook_attn_out"),
        ("embed_tokens", "hook_embed"),
    ):
        path = write(tmp_path / name, config, "sae.safetensors", weights)
        check(dictionaries.load(path), features, features @ W_DEC + B_DEC, hook)
    config |= {"transcode": True, "skip_connection": True}
    path = write(tmp_path / "layers.5.mlp", config, "sae.safetensors", weights | {"W_skip": SKIP.T})
    features = top_k(GEMMA_PRE, 4)
    out = features @ W_DEC + B_DEC + X @ SKIP
    check(dictionaries.load(path), features, out, "blocks.5.mlp.hook_in", "blocks.5.hook_mlp_out")


def test_llama_scope(tmp_path: Path) -> None:
    """Of activations that are scaled to norm sqrt(d), with a threshold in units of those that are not."""
    hook = "blocks.7.hook_resid_post"
    config = {
        "hook_point_in": hook,
        "hook_point_out": hook,
        "jump_relu_threshold": 0.4,
        "norm_activation": "dataset-wise",
    }
    config |= {"act_fn": "jumprelu", "dataset_average_activation_norm": {"in": 5.0, "out": 5.0}}
    weights = LINEAR | {"decoder.bias": B_DEC}
    path = write(tmp_path, config, "checkpoints/final.safetensors", weights, cfg="hyperparams.json")
    scale = D**0.5 / 5.0
    pre = (scale * X) @ W_ENC + B_ENC
    features = pre.relu() * (pre > 0.4 * scale)
    check(dictionaries.load(path), features, (features @ W_DEC + B_DEC) / scale, hook)


def test_qwen_scope(tmp_path: Path) -> None:
    weights = {"W_enc": W_ENC.T, "W_dec": W_DEC.T, "b_enc": B_ENC, "b_dec": B_DEC}
    folder = write(tmp_path / "SAE-Res-Qwen3-1.7B-Base-W32K-L0_4", None, "layer6.sae.pt", weights)
    features = top_k(GEMMA_PRE, 4)
    check(dictionaries.load(folder / "layer6.sae.pt"), features, features @ W_DEC + B_DEC, "blocks.6.hook_resid_post")


def test_goodfire(tmp_path: Path) -> None:
    weights = {f"{name.replace('.', '_linear.')}": one for name, one in (LINEAR | {"decoder.bias": B_DEC}).items()}
    folder = write(tmp_path, None, "Llama-3.1-8B-Instruct-SAE-l19.pt", weights)
    found = dictionaries.load(folder / "Llama-3.1-8B-Instruct-SAE-l19.pt")
    check(found, GEMMA_PRE.relu(), GEMMA_PRE.relu() @ W_DEC + B_DEC, "blocks.19.hook_resid_post")


def test_a_set_of_circuit_tracer(tmp_path: Path) -> None:
    each = [transcoder(layer=layer, seed=layer) for layer in range(3)]
    for layer, one in enumerate(each):
        assert one.W_skip is not None
        weights = {"W_enc": one.W_enc.T, "W_dec": one.W_dec, "b_enc": one.b_enc, "b_dec": one.b_dec}
        write(tmp_path / "deep", None, f"layer_{layer}.safetensors", weights | {"W_skip": one.W_skip.T})
    config = {"model_name": "Qwen/Qwen3-4B", "model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in"}
    config |= {"feature_output_hook": "hook_mlp_out"}
    config |= {"transcoders": [f"hf://owner/name/deep/layer_{layer}.safetensors?revision=main" for layer in (2, 0, 1)]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    found, x = dictionaries.load(tmp_path), randoms(12)(4, 3, D)
    assert isinstance(found, CrossLayerTranscoder)
    assert found.hooks_in == tuple(f"blocks.{layer}.mlp.hook_in" for layer in range(3))
    assert_close(found(x), torch.stack([one(x[:, layer]) for layer, one in enumerate(each)], 1), 1e-12)
    (tmp_path / "deep" / "layer_1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"layer_1\.safetensors\?revision=main, which is not in this folder"):
        dictionaries.load(tmp_path)


def test_a_cross_layer_transcoder_of_circuit_tracer(tmp_path: Path) -> None:
    one = cross_layer()
    for layer in range(3):
        encoder = {"W_enc": one.W_enc[layer].T, "b_enc": one.b_enc[layer], "b_dec": one.b_dec[layer]}
        encoder["threshold"] = one.activations[layer].threshold  # pyright: ignore
        encoder |= {} if one.W_skip[layer] is None else {"W_skip": one.W_skip[layer]}  # pyright: ignore
        write(
            tmp_path, None, f"W_enc_{layer}.safetensors", {f"{name}_{layer}": value for name, value in encoder.items()}
        )
        write(tmp_path, None, f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": one.W_dec[layer]})
    found, x = dictionaries.load(tmp_path), randoms(12)(4, 3, D)
    assert_close(found(x), one(x), 1e-12)
    assert found.hooks_in[1] == "blocks.1.hook_resid_mid"


def resident() -> int:
    """Bytes of memory that this process has at hand."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's account of memory")
def test_rows_are_read_when_they_are_used(tmp_path: Path) -> None:
    """A decoder of 32 MB costs no memory until its rows are read, and then as much as these take, about."""
    d, features = 64, 2**16
    encoder = {"W_enc_0": torch.zeros(features, d), "b_enc_0": torch.ones(features), "b_dec_0": torch.zeros(d)}
    write(tmp_path, None, "W_enc_0.safetensors", encoder)
    write(tmp_path, None, "W_dec_0.safetensors", {"W_dec_0": torch.ones(features, 2, d)[:, :1]})
    del encoder
    before = resident()
    found = dictionaries.load(tmp_path)
    assert isinstance(found, CrossLayerTranscoder)
    assert found.decoder_rows(0, [5, 60_000]).shape == (2, 1, d)
    assert resident() - before < 8e6
    assert float(found.W_dec[0].sum()) == features * d  # which reads all of it
    assert resident() - before > 14e6


# -------------------------------------------------------------------------------------------------------------- refused


class Code:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (print, ("code of a pickle has run",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickles_run_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = learned(tmp_path, "AutoEncoder", LINEAR)
    for content in (pickle.dumps(Code()), b"no pickle"):
        (folder / "ae.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="as tensors and plain values"):
            dictionaries.load(folder)
    torch.save({"bias": Code()}, folder / "ae.pt")
    with pytest.raises(CheckpointError, match="as tensors and plain values"):
        dictionaries.load(folder)
    assert "has run" not in capsys.readouterr().out


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no file or folder"):
        dictionaries.load(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no dictionary in a known format"):
        dictionaries.load(tmp_path)
    with pytest.raises(BadInput, match="Did you mean saelens"):
        dictionaries.load(tmp_path, format="sae-lens")
    with pytest.raises(UnsupportedConfig, match="architecture 'temporal'"):
        dictionaries.load(saelens(tmp_path / "a", "temporal"))
    with pytest.raises(UnsupportedConfig, match="activation_fn='tanh-relu'"):
        dictionaries.load(saelens(tmp_path / "b", "standard", activation_fn="tanh-relu"))
    with pytest.raises(UnsupportedConfig, match="covariance_whitening"):
        dictionaries.load(saelens(tmp_path / "c", "standard", normalize_activations="covariance_whitening"))
    with pytest.raises(WeightMismatch, match="no place in this dictionary: threshold"):
        dictionaries.load(saelens(tmp_path / "d", "standard", {"threshold": THRESHOLD}))
    with pytest.raises(WeightMismatch, match="has no threshold"):
        dictionaries.load(saelens(tmp_path / "e", "jumprelu"))
    with unchecked_types(), pytest.raises(BadInput, match=r"W_dec must have shape \[17, "):
        dictionaries.load(saelens(tmp_path / "f", "standard", {"W_dec": W_DEC.T}))
    with pytest.raises(BadInput, match="b_enc has numbers that are nan"):
        dictionaries.load(saelens(tmp_path / "g", "standard", {"b_enc": B_ENC * float("nan")}))
    with pytest.raises(UnsupportedConfig, match="class 'Other'"):
        dictionaries.load(learned(tmp_path / "h", "Other", LINEAR))
    (tmp_path / "i").mkdir()
    np.savez(tmp_path / "i" / "params.npz", W_enc=np.array([Code()], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="cannot be read as arrays"):
        dictionaries.load(tmp_path / "i")


def test_a_transcoder_says_what_it_predicts(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pass hook_out="):
        dictionaries.load(saelens(tmp_path, "transcoder", apply_b_dec_to_input=False))
    found = dictionaries.load(tmp_path, hook_out="mlp_out2")
    assert isinstance(found, Transcoder)
    assert not isinstance(found, SAE)


# ---------------------------------------------------------------------------------------------------------- the manual


ROOT = Path(__file__).parents[2]


def rows_of(page: str) -> list[list[str]]:
    """The rows of a page's tables that begin with names of formats."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1:-1] for line in lines if re.match(r"\| `[\w-]+`", line)]
    return [row for row in rows if {*re.findall(r"`([\w-]+)`", row[0])} <= {*FORMATS}]


def test_the_manual_lists_every_format_with_its_test() -> None:
    rows = rows_of("docs/methods/dictionaries.md")
    assert {row[0].strip(" `") for row in rows} == {*FORMATS}
    for name, *_, tests in rows:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, name
        assert {*named} <= globals().keys(), name


def test_the_readme_lists_every_format() -> None:
    named = [name for row in rows_of("README.md") for name in re.findall(r"`([\w-]+)`", row[0])]
    assert sorted(named) == sorted(FORMATS)
