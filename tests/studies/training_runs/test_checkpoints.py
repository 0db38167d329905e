"""The checkpoints of a training as a list: what each kind of source gives, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.errors import BadInput, CheckpointError
from interp_hooks.studies import training_checkpoints
from tests.tiny import build, fresh_hf, hf_logits, our_logits, random_tokens, unchecked_types


def same(one: HookedTransformer, other: HookedTransformer) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_a_bundled_training_loads_as_from_pretrained_does() -> None:
    found = training_checkpoints("induction-steps", steps=[0, 512, 1024], device="cpu")
    assert [one.step for one in found] == [0, 512, 1024]
    for one in found:
        direct = HookedTransformer.from_pretrained_no_processing(
            "induction-steps", checkpoint_value=one.step, device="cpu"
        )
        assert same(one.load(), direct)


def test_models_on_the_hub_are_listed_without_asking_it() -> None:
    found = training_checkpoints("pythia-70m")
    assert len(found) == 154
    assert [one.step for one in found][:4] == [0, 1, 2, 4]
    assert found[-1].step == 143_000
    assert "pythia-70m" in found[7].key()


@pytest.mark.parametrize("names", [("step_{}", "step_5x"), ("checkpoint-{}", "checkpoints"), ("global_step{}", "a")])
def test_folders_of_others_are_sorted_by_step(names: tuple[str, str], tmp_path: Path) -> None:
    hf, tokens = fresh_hf("gpt2"), random_tokens(1, 5, 20)
    logits = {}
    for step in (1000, 20, 300):
        with torch.no_grad():
            hf.transformer.wte.weight.mul_(1.1)
        hf.save_pretrained(tmp_path / names[0].format(step))
        logits[step] = hf_logits(hf, tokens)
    (tmp_path / names[1]).mkdir()
    (tmp_path / "step7").mkdir()  # without a model in it
    found = training_checkpoints(tmp_path, device="cpu")
    assert [one.step for one in found] == [20, 300, 1000]
    for one in found:
        ours = our_logits(one.load(), tokens)
        torch.testing.assert_close(ours.to(logits[one.step]), logits[one.step], rtol=0, atol=1e-3)


def test_models_state_dicts_paths_and_functions(tmp_path: Path) -> None:
    models = [build(seed=seed) for seed in range(4)]
    models[1].save_pretrained(tmp_path / "final")
    torch.save(models[3].state_dict(), tmp_path / "late.pt")
    source = {
        30: tmp_path / "late.pt",
        0: models[0],
        10: tmp_path / "final",
        20: models[2].state_dict(),
        40: lambda: models[0],
    }
    found = training_checkpoints(source, cfg=models[0].cfg, device="cpu")
    assert [one.step for one in found] == [0, 10, 20, 30, 40]
    for one, model in zip(found, [*models, models[0]], strict=True):
        assert same(one.load(), model)


def test_keys_change_with_the_state(tmp_path: Path) -> None:
    model, state = build(), build(seed=1).state_dict()
    model.save_pretrained(tmp_path / "step3")
    found = training_checkpoints({0: model, 1: state, 3: tmp_path / "step3"}, cfg=model.cfg)
    before = [one.key() for one in found]
    assert before == [one.key() for one in found]
    with torch.no_grad():
        model.W_E.mul_(2)
        state["embed.W_E"].mul_(2)
    model.save_pretrained(tmp_path / "step3")
    assert all(one.key() != was for one, was in zip(found, before, strict=True))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("empty", {}, "has no checkpoints in it: expected folders .* found nothing"),
        ("full", {}, "found diary, step5"),
        ("twice", {}, "two checkpoints of step 7: checkpoint-7 and step_7"),
        ("states", {}, "pass the model's config as cfg=model.cfg"),
        ("mod-add", {"steps": [3]}, r"no checkpoint of step 3; there are 0, 200, 1000"),
        ({}, {}, "at least one checkpoint, got none"),
        ({-1: "gpt2"}, {}, "from 0 on, got -1"),
        ({0: 3.5}, {}, "a function that loads a model, got float 3.5 for step 0"),
    ],
)
def test_what_is_no_list_of_checkpoints(source: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full" / "step5").mkdir(parents=True)
    (tmp_path / "full" / "diary").touch()
    for name in ("checkpoint-7", "step_7"):
        (tmp_path / "twice" / name).mkdir(parents=True)
        (tmp_path / "twice" / name / "config.json").touch()
    (tmp_path / "states").mkdir()
    (tmp_path / "states" / "model_3.pt").touch()
    if isinstance(source, str) and (tmp_path / source).exists():
        source = str(tmp_path / source)
    with unchecked_types(), pytest.raises(BadInput, match=message):
        training_checkpoints(source, **options)


def test_names_without_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no folder"):
        training_checkpoints(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match="no checkpoints of the training of 'gpt2' are known"):
        training_checkpoints("gpt2")
