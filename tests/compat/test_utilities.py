"""The small functions of TransformerLens' `utils` and `loading_from_pretrained`, by closed forms."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerBase

from interp_hooks import HookedTransformer
from interp_hooks.compat import loading, texts, utilities
from interp_hooks.compat.classes import HookIntrospectionMixin
from interp_hooks.compat.patching import _check_fold_ln
from interp_hooks.errors import BadInput, TokenError
from interp_hooks.hooks.points import HookPoint
from tests.model.test_tokens import word_tokenizer
from tests.tiny import build

FOLDER = Path(__file__).parents[1] / "data" / "lens_checkpoints"


@pytest.mark.parametrize(
    ("shape", "fans"), [((7,), (1, 7)), ((3, 5), (3, 5)), ((4, 3, 5), (3, 20))], ids=lambda case: str(case)
)
def test_fans_and_what_is_drawn_from_them(shape: tuple[int, ...], fans: tuple[int, int]) -> None:
    assert utilities.calc_fan_in_and_fan_out(torch.empty(shape)) == fans
    wide = torch.empty(*shape[:-1], 100_000 // math.prod(shape[:-1]))
    fan_in, fan_out = utilities.calc_fan_in_and_fan_out(wide)
    for draw, deviation in (
        (lambda w, uniform: _xavier(uniform)(w, gain=2.0), 2 * math.sqrt(2 / (fan_in + fan_out))),
        (lambda w, uniform: _kaiming(uniform)(w), math.sqrt(2 / fan_in)),
        (lambda w, uniform: _kaiming(uniform)(w, nonlinearity="linear", mode="fan_out"), math.sqrt(1 / fan_out)),
    ):
        for uniform in (True, False):
            torch.manual_seed(0)
            drawn = draw(wide, uniform)
            assert drawn is wide
            assert drawn.std() == pytest.approx(deviation, rel=0.02)
            assert (drawn.abs().max() <= math.sqrt(3) * deviation * 1.0001) == uniform
    with pytest.raises(BadInput, match="one to three axes"):
        utilities.calc_fan_in_and_fan_out(torch.empty(2, 2, 2, 2))


def _xavier(uniform: bool) -> Any:
    return utilities.init_xavier_uniform_ if uniform else utilities.init_xavier_normal_


def _kaiming(uniform: bool) -> Any:
    return utilities.init_kaiming_uniform_ if uniform else utilities.init_kaiming_normal_


def test_xielu_by_its_formula() -> None:
    x = torch.linspace(-3, 3, 13)
    act = utilities.XIELU(alpha_p_init=1.1, alpha_n_init=0.7, beta_init=0.3)
    below = (torch.expm1(x.clamp(max=-1e-6)) - x) * 0.7 + 0.3 * x
    torch.testing.assert_close(act(x), torch.where(x > 0, 1.1 * x * x + 0.3 * x, below))
    torch.testing.assert_close(utilities.xielu(x), utilities.XIELU()(x))
    torch.testing.assert_close(utilities.SUPPORTED_ACTIVATIONS["gelu_pytorch_tanh"](x), F.gelu(x, approximate="tanh"))
    torch.testing.assert_close(utilities.apply_softcap(x, 2.0), 2 * torch.tanh(x / 2))
    assert utilities.apply_softcap(x, utilities.SOFTCAP_DISABLED) is x
    assert [utilities.softcap_enabled(cap) for cap in (3.0, 0.0, None, -1.0)] == [True, False, False, False]


def test_tensors(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert utilities.get_cumsum_along_dim(x, 1).tolist() == [[0, 1, 3], [3, 7, 12]]
    assert utilities.get_cumsum_along_dim(x, 1, reverse=True).tolist() == [[3, 3, 2], [12, 9, 5]]
    assert torch.equal(utilities.transpose(x), x.T)
    assert [utilities.is_square(one) for one in (x, x @ x.T, x[0])] == [False, True, False]
    assert utilities.is_lower_triangular(torch.ones(3, 3).tril())
    assert not utilities.is_lower_triangular(torch.ones(3, 3))
    assert utilities.remove_batch_dim(x[None]).shape == utilities.remove_batch_dim(x).shape == (2, 3)
    heads = utilities.repeat_along_head_dimension(x[None], 4)
    assert all(torch.equal(heads[:, :, head], x[None]) for head in range(4))
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert utilities.get_offset_position_ids(1, mask).tolist() == [[0, 0, 1], [1, 2, 3]]
    utilities.check_structure(x, x + 1)
    utilities.check_structure(x, x.flip(0))
    utilities.check_structure(x, x.flip(1), verbose=True)
    said = capsys.readouterr().out
    assert said.startswith("PASSED\nrow mismatch: [0]\n")
    assert said.endswith("column mismatch: [0, 1]\n")


def test_dictionaries_attributes_and_arguments() -> None:
    state = {"blocks.1.a": 1, "blocks.10.a": 2, "blocks.1.b.c": 3}
    assert utilities.filter_dict_by_prefix(state, "blocks.1") == {"a": 1, "b.c": 3}
    assert utilities.filter_dict_by_prefix(state, "blocks.1.") == {"a": 1, "b.c": 3}
    model = nn.Sequential(nn.Linear(2, 2))
    utilities.set_nested_attr(model, "0.in_features", 5)
    assert utilities.get_nested_attr(model, "0.in_features") == 5
    assert utilities.override_or_use_default_value(1) == 1
    assert utilities.override_or_use_default_value(1, False) is False
    assert utilities.is_library_available("torch")
    assert not utilities.is_library_available("no_such_library")
    assert utilities.select_compatible_kwargs(dict(a=1, b=2, c=3), lambda a, *, b: None) == dict(a=1, b=2)


def test_a_parameter_has_other_numbers_for_a_while() -> None:
    weight = nn.Parameter(torch.ones(3))
    with utilities.temporarily_swap_parameter(weight, torch.zeros(3)) as same:
        assert same is weight
        assert not weight.any()
    with pytest.raises(ZeroDivisionError), utilities.temporarily_swap_parameter(weight, torch.zeros(3)):
        _ = 1 / 0
    assert weight.detach().tolist() == [1, 1, 1]
    for wrong, error in ((torch.zeros(2), BadInput), (torch.zeros(3).double(), BadInput), (weight, TypeError)):
        with pytest.raises(error), utilities.temporarily_swap_parameter(weight, wrong):
            pass


def test_logits_as_a_table() -> None:
    logits = torch.tensor([1.0, 3.0, 2.0])
    table = utilities.logits_to_df(logits, word_tokenizer(), top_k=2)
    assert table["token_index"].tolist() == [1, 2]
    assert table["token_string"].tolist() == [word_tokenizer().decode([token]) for token in (1, 2)]
    assert table["probability"].tolist() == pytest.approx(logits.softmax(-1)[[1, 2]].tolist())
    assert [math.exp(one) for one in table["log_prob"]] == pytest.approx(table["probability"].tolist())
    lowered = utilities._apply_repetition_penalty(torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[0, 1]]), 2.0)
    assert lowered.tolist() == [[1.0, -4.0, 1.0]]


def test_attached_functions_of_any_class_with_hook_points() -> None:
    class Bag(HookIntrospectionMixin):
        def __init__(self) -> None:
            self.hook_dict = {"a": HookPoint(), "b": HookPoint()}

    bag, fn = Bag(), lambda value, hook: None
    assert bag.list_hooks() == {}
    bag.hook_dict["a"].add_hook(fn)
    bag.hook_dict["b"].add_hook(fn, dir="bwd")
    assert [hook.user_hook for hook in bag.list_hooks("a")["a"]] == [fn]
    assert (
        [*bag.list_hooks(dir="bwd")] == [*bag.list_hooks(["b"])] == [*bag.list_hooks(lambda name: name > "a")] == ["b"]
    )


def test_a_warning_where_gains_are_not_folded() -> None:
    model = build(normalization_type="LN")
    with pytest.warns(UserWarning, match="not folded"):
        _check_fold_ln(model)
    model.process_weights_()
    _check_fold_ln(model)


# ----------------------------------------------------------------------------------------------------- BOS and padding


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", [True, False])
def test_masks_are_those_that_the_model_made(side: Any, bos: bool, gpt2_tokenizer: PreTrainedTokenizerBase) -> None:
    """GPT-2 pads with its BOS, which only the place tells apart."""
    gpt2_tokenizer.pad_token = gpt2_tokenizer.eos_token
    model = HookedTransformer(dict(n_layers=1, d_model=4, n_ctx=20, d_head=2, attn_only=True), gpt2_tokenizer)
    model.default_padding_side, model.default_prepend_bos = side, bos
    encoded = model.text.encode(["a b c d", "e"], bos)
    assert encoded.real is not None
    mask = texts.get_attention_mask(gpt2_tokenizer, encoded.tokens, bos, side)
    assert torch.equal(mask.bool(), encoded.real)
    if bos:
        left = texts.get_tokens_with_bos_removed(gpt2_tokenizer, encoded.tokens, side)
        assert torch.equal(left, model.to_tokens(["a b c d", "e"], prepend_bos=False))


def test_bos_by_hand(gpt2_tokenizer: PreTrainedTokenizerBase) -> None:
    assert texts.get_input_with_manually_prepended_bos("<s>", "a") == "<s>a"
    assert texts.get_input_with_manually_prepended_bos("<s>", ["a", "b"]) == ["<s>a", "<s>b"]
    assert texts.get_input_with_manually_prepended_bos(None, "a") == "a"
    with_bos = texts.get_tokenizer_with_bos(gpt2_tokenizer)
    assert with_bos.encode("a") == [gpt2_tokenizer.bos_token_id, *gpt2_tokenizer.encode("a")]
    assert texts.get_tokenizer_with_bos(with_bos) is with_bos


def test_rows_of_tokens(gpt2_tokenizer: PreTrainedTokenizerBase) -> None:
    """They are those of the corpus; a short text is one row, filled up; a data set of `datasets` if there is."""
    long = texts.tokenize_and_concatenate(["a b c d e f"] * 3, gpt2_tokenizer, max_length=5)
    flat = [gpt2_tokenizer.bos_token_id, *gpt2_tokenizer.encode("a b c d e f")]
    assert long["tokens"][0].tolist() == flat[:5]
    short = texts.tokenize_and_concatenate([{"text": "a"}, {"text": "b"}], gpt2_tokenizer, max_length=6)
    eos = gpt2_tokenizer.eos_token_id
    a, b = gpt2_tokenizer.encode("a"), gpt2_tokenizer.encode("b")
    assert short[0]["tokens"].tolist() == [eos, *a, eos, *b, eos, eos]
    if importlib.util.find_spec("datasets"):
        import datasets  # pyright: ignore[reportMissingImports]

        assert isinstance(long, datasets.Dataset)
    with pytest.raises(TokenError):
        texts.tokenize_and_concatenate(["a"], word_tokenizer(bos=False), max_length=5)
    with pytest.raises(BadInput, match=r"no data set 'pil'; there are .*\. Did you mean pile"):
        texts.get_dataset("pil")


# ---------------------------------------------------------------------------------------------------------- checkpoints


def test_names_configs_and_weights_of_checkpoints() -> None:
    assert loading.make_model_alias_map()["gpt2-small"] == "openai-community/gpt2"
    assert len(loading.OFFICIAL_MODEL_NAMES) == len(loading.DEFAULT_MODEL_ALIASES) > 240
    assert loading.PYTHIA_V0_CHECKPOINTS[0] == 1000
    folder = FOLDER / "NeelNanda--GELU_1L512W_C4_Code"
    cfg = loading.get_pretrained_model_config(str(folder), fold_ln=True, device="cpu", default_prepend_bos=False)
    assert (cfg.d_model, cfg.normalization_type, cfg.default_prepend_bos) == (6, "LNPre", False)
    assert loading.get_num_params_of_pretrained(str(folder)) == cfg.n_params
    state = loading.get_pretrained_state_dict(str(folder), cfg, device="cpu")
    theirs = torch.load(folder / "model_final.pth", weights_only=True)
    assert torch.equal(state["embed.W_E"], theirs["embed.W_E"])
    with pytest.raises(BadInput, match="read from the checkpoint"):
        loading.get_pretrained_model_config(str(folder), n_devices=2)


def test_a_file_of_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    torch.save({"b": torch.ones(2)}, tmp_path / "w.pth")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file, **options: str(tmp_path / file))
    assert texts.download_file_from_hf("me/it", "config.json") == {"a": 1}
    assert texts.download_file_from_hf("me/it", "w.pth")["b"].tolist() == [1, 1]
    assert texts.download_file_from_hf("me/it", "notes.txt") == str(tmp_path / "notes.txt")
