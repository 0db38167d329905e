"""Lenses come back from disk, and published files are read by what their authors' code does with them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, DiskError
from interp_hooks.studies import Lens, load_lens, save_lens
from tests.studies.test_logit_attribution import IN_VOCABULARY
from tests.tiny import assert_close, build, fresh_hf, unchecked_types


def random_maps(*layers: int, d_model: int = 12, dtype: torch.dtype = torch.float64) -> dict[int, Tensor]:
    return {layer: torch.randn(d_model, d_model, dtype=dtype) for layer in layers}


def same(one: Lens, other: Lens) -> bool:
    return (
        [*one.maps] == [*other.maps]
        and all(
            (mine is None and theirs is None) or torch.equal(mine, theirs)
            for mine, theirs in zip(one.maps.values(), other.maps.values(), strict=True)
        )
        and {**one.biases}.keys() == {**other.biases}.keys()
        and all(torch.equal(one.biases[layer], other.biases[layer]) for layer in one.biases)
        and (one.kind, one.n_prompts, one.of_centred, dict(one.facts))
        == (other.kind, other.n_prompts, other.of_centred, dict(other.facts))
    )


@pytest.mark.parametrize(
    "lens",
    [
        Lens(maps={0: None, 2: None}, kind="identity"),
        Lens(maps=random_maps(1, 2) | {0: None}, biases={2: torch.ones(12)}, kind="tuned", of_centred=False),
        Lens(maps=random_maps(1), kind="jacobian", n_prompts=7, of_centred=True, facts={"model": "x", "skip_first": 3}),
    ],
    ids=lambda lens: lens.kind,
)
def test_own_files_lose_nothing(lens: Lens, tmp_path: Path) -> None:
    lens = Lens(**{**vars(lens), "maps": dict(sorted(lens.maps.items()))})
    save_lens(lens, tmp_path / "lens.safetensors")
    assert same(load_lens(tmp_path / "lens.safetensors"), lens)


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "lens.safetensors"
    save_lens(Lens(maps=random_maps(1)), path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged"):
        load_lens(path)


# ----------------------------------------------------------------------------------------------------- published files


def theirs(layers: int, d_model: int, folder: Path) -> nn.ModuleList:
    """What tuned-lens keeps: a list of linear translators, whose output is added to the stream."""
    translators = nn.ModuleList([nn.Linear(d_model, d_model) for _ in range(layers)])
    folder.mkdir()
    torch.save(translators.state_dict(), folder / "params.pt")
    config = dict(base_model_name_or_path="gpt2", d_model=d_model, num_hidden_layers=layers, bias=True)
    (folder / "config.json").write_text(json.dumps(config))
    return translators


def test_a_published_tuned_lens_says_what_it_says_there(tmp_path: Path) -> None:
    """On HuggingFace's own hidden states, with HuggingFace's own final norm and head."""
    hf = fresh_hf("gpt2")
    layers, d_model = hf.config.n_layer, hf.config.n_embd
    translators = theirs(layers, d_model, tmp_path / "lens")
    lens = load_lens(tmp_path / "lens")
    assert (lens.kind, lens.layers, lens.of_centred) == ("tuned", list(range(layers)), False)
    model = HookedTransformer.from_pretrained_no_processing("tiny", hf_model=hf)
    found = lens(model, IN_VOCABULARY)
    with torch.no_grad():
        hidden = hf(IN_VOCABULARY, output_hidden_states=True).hidden_states
        for layer in range(layers):
            read = hf.lm_head(hf.transformer.ln_f(hidden[layer] + translators[layer](hidden[layer])))
            assert_close(found.log_probs[layer], read[:, -1].log_softmax(-1), 1e-5)
    with pytest.raises(BadInput, match="center_writing_weights=False"):
        lens(HookedTransformer.from_pretrained("tiny", hf_model=hf), IN_VOCABULARY)
    save_lens(lens, tmp_path / "again", "tuned-lens")
    state = torch.load(tmp_path / "again" / "params.pt", weights_only=True)
    assert [*state] == [*translators.state_dict()]
    for name, tensor in translators.state_dict().items():
        assert_close(state[name], tensor, 1e-6)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["base_model_name_or_path"] == "gpt2"


def test_a_published_jacobian_lens_is_of_the_stream_after_a_block(tmp_path: Path) -> None:
    J = {0: torch.randn(12, 12).half(), 1: torch.randn(12, 12).half()}
    path = tmp_path / "lens.pt"
    torch.save({"J": J, "n_prompts": 7, "source_layers": [0, 1], "d_model": 12}, path)
    lens = load_lens(path)
    assert (lens.layers, lens.n_prompts, lens.kind) == ([1, 2], 7, "jacobian")
    model = build(dtype=torch.float32)
    found = lens(model, IN_VOCABULARY)
    with torch.no_grad():
        for block in (0, 1):
            stream = model.run_with_cache(IN_VOCABULARY)[1]["resid_post", block]
            read = model.logits(stream @ J[block].float().T)
            assert_close(found.log_probs[block], read[:, -1].log_softmax(-1), 1e-5)
    save_lens(lens, tmp_path / "again.pt", "jacobian")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert {*again} == {"J", "n_prompts", "source_layers", "d_model", "metadata"}
    assert all(torch.equal(again["J"][layer], J[layer]) and again["J"][layer].dtype == torch.float16 for layer in J)


class Harm:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("harm"),)


def test_pickles_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"J": Harm()}, "lens.pt")
    with pytest.raises(BadInput, match="tensors and plain values"):
        load_lens("lens.pt")
    assert not Path("harm").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"jacobian_sum": {}, "n_done": 3}, "checkpoint of a fit"),
        ({"n_prompts": 3}, "no 'J'"),
        ([torch.ones(2)], "no 'J'"),
    ],
    ids=str,
)
def test_files_of_something_else(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "lens.pt")
    with pytest.raises(BadInput, match=message):
        load_lens(tmp_path / "lens.pt")


def test_folders_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no lens"):
        load_lens(tmp_path / "nothing.pt")
    with pytest.raises(BadInput, match="there is no lens"):
        load_lens("x" * 500)
    with pytest.raises(BadInput, match="holds no tuned lens"):
        load_lens(tmp_path)
    theirs(2, 12, tmp_path / "lens")
    (tmp_path / "lens" / "config.json").write_text(json.dumps(dict(d_model=12, num_hidden_layers=3)))
    with pytest.raises(BadInput, match="lacks translators"):
        load_lens(tmp_path / "lens")


@pytest.mark.parametrize(
    ("lens", "format", "message"),
    [
        (Lens(maps=random_maps(1)), "tuned-lens", "every layer from 0 on"),
        (Lens(maps=random_maps(0), kind="tuned", of_centred=True), "tuned-lens", "centred one"),
        (Lens(maps=random_maps(1), kind="tuned"), "jacobian", "for Jacobian lenses"),
        (Lens(maps=random_maps(1), kind="jacobian", of_centred=True), "jacobian", "checkpoint's own weights"),
        (Lens(maps=random_maps(0), kind="jacobian"), "jacobian", "no place for the embeddings"),
        (Lens(maps={1: torch.eye(2) * 1e6}, kind="jacobian"), "jacobian", "half precision"),
        (Lens(maps=random_maps(1)), "other", "format must be"),
        (Lens(maps=random_maps(1)), "own", "ends in .safetensors"),
    ],
    ids=str,
)
def test_what_a_format_has_no_place_for(lens: Lens, format: Any, message: str, tmp_path: Path) -> None:
    with unchecked_types(), pytest.raises(BadInput, match=message):
        save_lens(lens, tmp_path / "lens.pt", format)
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(DiskError):
        save_lens(Lens(maps=random_maps(1), kind="jacobian"), tmp_path / "no" / "lens.pt", "jacobian")
