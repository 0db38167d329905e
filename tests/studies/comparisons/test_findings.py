"""All comparisons in one call: what is known to differ comes first, and nothing where nothing does."""

import copy
import json

import pytest
import torch

from interp_hooks import HookedTransformer, LogitDiff, Result
from interp_hooks.errors import BadInput
from interp_hooks.studies import (
    PredictionChanges,
    activation_changes,
    compare_losses,
    cross_model_patch,
    diff_models,
    mean_difference,
    pattern_changes,
    prediction_changes,
    weight_changes,
)
from tests.studies.comparisons.test_losses import TEXTS, reader
from tests.tiny import ARCHITECTURES, build, hooked, random_tokens, unchecked_types


@pytest.fixture(scope="module")
def inducing() -> tuple[HookedTransformer, HookedTransformer]:
    one, two = (HookedTransformer.from_pretrained(f"induction-{layers}l", device="cpu") for layers in (1, 2))
    return one, two


@pytest.mark.parametrize("reverse", [False, True])
def test_induction_is_found_between_one_layer_and_two(inducing, reverse: bool) -> None:
    """Nobody says what to look for: the corpus, tasks and groups are those of any two models that read token ids."""
    found = diff_models(*(inducing[::-1] if reverse else inducing), limit=64)
    first = found.behaviour[:3]
    assert any("induction" in one.claim for one in first)
    better = "model" if reverse else "other"
    assert first[0].claim.startswith(f"{better} does 'induction' better")
    continues = next(one for one in found.behaviour if "continues a repetition" in one.claim)
    assert continues.claim.startswith(better)
    assert (continues.effect < 0) == reverse
    sizes = [abs(one.effect) for one in found.behaviour]
    assert sizes == sorted(sizes, reverse=True)
    assert not found.places
    assert "blocks.1" in found.left_out["weights"]


def test_a_model_beside_itself_has_no_findings() -> None:
    model = build(d_vocab=19)
    found = diff_models(model, model, random_tokens(batch=6, pos=9, d_vocab=19), n=4)
    assert not found.behaviour
    assert not found.places
    assert not found.table().size


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_beside_itself(name: str) -> None:
    """No difference anywhere, of whatever kind of model; what models that read both ways do not predict is refused."""
    model = hooked(name)
    tokens = random_tokens(batch=3, pos=7, d_vocab=min(model.cfg.d_vocab, model.cfg.d_vocab_out))
    options, both = dict(progress=False, exclude=()), (model, model)
    assert not activation_changes(*both, tokens, **options).mean[..., :2].any()
    assert not pattern_changes(*both, tokens, **options).mean.any()
    assert not mean_difference(*both, tokens, first=3, progress=False).mean.any()
    metric = LogitDiff(torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]), pos=-1)
    assert float(cross_model_patch(*both, tokens, metric, progress=False).change.abs().max()) < 1e-9
    if model.cfg.attention_dir == "bidirectional":
        with pytest.raises(BadInput, match="sees the tokens that follow"):
            prediction_changes(*both, tokens, **options)
        return
    assert not prediction_changes(*both, tokens, **options).mean[:3].any()
    assert not compare_losses(*both, tokens).by("position", least=1).mean[:, 2:5].any()


def test_what_a_changed_block_does_is_located() -> None:
    model, source = reader("neox", 0), reader("neox", 1)
    twin = copy.deepcopy(model)
    twin.blocks[1].load_state_dict(source.blocks[1].state_dict())
    with unchecked_types():  # which take most of the time
        found = diff_models(model, twin, TEXTS * 4, n=2)
    assert found.behaviour
    text = " | ".join(one.claim for one in found.places)
    assert "in L1" in text
    assert text.count("layer 1 of") == 2
    assert text.count("brings 100% of the difference in loss, the one before that layer 0%") == 2
    assert "activations differ from layer 1 on" in text
    assert all(len(one.evidence) for one in found.places)
    names = {"model": model, "other": twin, "texts": TEXTS * 4}
    calls = dict(weight_changes=weight_changes, compare_losses=compare_losses)
    for one in (*found.places[:1], *found.behaviour):
        if one.call.split("(")[0] in calls:
            with unchecked_types():
                assert eval(one.call, names | calls) is not None


def test_it_is_kept_with_all_its_parts(tmp_path) -> None:
    model, twin = build(d_vocab=19, seed=0), build(d_vocab=19, seed=1)
    found = diff_models(model, twin, random_tokens(batch=8, pos=9, d_vocab=19), n=2)
    found.save(tmp_path / "diff")
    document = json.loads((tmp_path / "diff" / "diff.json").read_text())
    assert [one["claim"] for one in document["findings"]] == found.table()["claim"].tolist()
    parts = tmp_path / "diff" / "parts"
    assert Result.load(parts / "weights").table().equals(found.weights.table())
    assert Result.load(parts / "patching other into model").values.equal(found.patching["other into model"].values)
    assert PredictionChanges.load(parts / "predictions").table().equals(found.predictions.table())
    with pytest.raises(BadInput, match="overwrite=True"):
        found.save(tmp_path / "diff")
    found.save(tmp_path / "diff", overwrite=True)


def test_models_with_other_tokenizers_are_compared_by_text() -> None:
    with unchecked_types():
        found = diff_models(reader("neox", 0), reader("llama", 1, n_layers=2), TEXTS * 4, n=2)
    assert found.losses is not None
    assert found.tasks is not None
    assert found.predictions is None
    assert {"predictions", "weights"} <= {*found.left_out}
    assert "other vocabularies" in found.left_out["predictions"]
    assert "beside" in repr(found)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(BadInput, match="nothing that both can read"):
        diff_models(reader("neox"), build(d_vocab=19), TEXTS)
    with pytest.raises(BadInput, match="no file"):
        diff_models(build(d_vocab=19), build(d_vocab=19), "nowhere.txt")
    with pytest.raises(BadInput, match="nothing can be compared: losses: "):
        diff_models(*(build(attention_dir="bidirectional") for _ in range(2)), torch.tensor([[1, 2]]), n=2)
