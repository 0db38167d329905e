"""A saved result says how it came about, and can be had again from that alone."""

import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp_hooks
from interp_hooks import (
    KL,
    HookedTransformer,
    Intervention,
    LogitDiff,
    Mean,
    Result,
    Run,
    ablate,
    at,
    attribution_patch,
    attribution_patches,
    causal_trace,
    evaluate,
    gradient_x_input,
    integrated_gradients,
    optimal_ablation,
    patch,
    patch_along,
    path_patch,
    sweep,
)
from interp_hooks.errors import BadInput
from interp_hooks.experiments import relative_norm
from interp_hooks.model.identity import Identity
from tests.children import in_a_child
from tests.experiments.by_hand import OTHER, RTOL, TOKENS, model_of
from tests.model.test_tokens import word_tokenizer
from tests.tiny import assert_close, build

DIFF = LogitDiff([4, 11], [7, 2])
Experiment = Callable[[HookedTransformer], Result]


def quiet(experiment: Callable[..., Result], *args: Any, **options: Any) -> Experiment:
    return lambda model: experiment(model, *args, **options, progress=False)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def run_at(layer: int, pos: int) -> Run:
    return Run(TOKENS, [Intervention(at("resid_pre", layer, pos=pos), Run(OTHER))])


EXPERIMENTS: dict[str, Experiment] = {
    "sweep": quiet(sweep, run_at, DIFF, over={"layer": [0, 2], "pos": range(3)}, baselines={"clean": Run(TOKENS)}),
    "patch": quiet(patch, TOKENS, OTHER, DIFF, ("attn_out", "mlp_out"), window=2, direction="noise"),
    "patch own positions": quiet(
        patch, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), select={"pos": torch.tensor([1, 3])}
    ),
    "patch_along": quiet(patch_along, TOKENS, OTHER, DIFF, {"x": torch.eye(12)[0], "xy": torch.eye(12)[:2]}),
    "ablate": quiet(ablate, TOKENS, KL(OTHER), "z"),
    "ablate by mean": quiet(ablate, TOKENS, DIFF, "mlp_out", method="mean", over=("layer",), reference=OTHER),
    "ablate by Mean": quiet(ablate, TOKENS, DIFF, "mlp_out", method=Mean(Run(OTHER)), over=("layer",)),
    "ablate by resampling": quiet(ablate, TOKENS, DIFF, "z", method="resample", generator=generator()),
    "optimal_ablation": quiet(optimal_ablation, TOKENS, "kl", "mlp_out", over=("layer",), steps=2),
    "path_patch": quiet(path_patch, TOKENS, OTHER, DIFF, {"one": at("z", 1, head=1), "more": [at("mlp_out", 0)]}),
    "path_patch to a layer": quiet(path_patch, TOKENS, OTHER, DIFF, receivers=at("q_input", 2), direction="noise"),
    "causal_trace": quiet(causal_trace, TOKENS, [1, 2], samples=3, generator=generator(), severed="mlp"),
    "attribution_patch": lambda model: attribution_patch(model, TOKENS, OTHER, DIFF, "q", qk_fix=True),
    "attribution_patches": lambda model: attribution_patches(
        model, TOKENS, OTHER, DIFF, {"z": ("layer",), "mlp_out": ("layer", "pos")}
    )["mlp_out"],
    "integrated_gradients": lambda model: integrated_gradients(
        model, TOKENS, DIFF, "hook_embed", baseline=Mean(Run(OTHER)), steps=3
    ),
    "gradient_x_input": lambda model: gradient_x_input(model, TOKENS, DIFF, at("z", 1), over=("head", "pos")),
    "relative_norm": lambda model: relative_norm(model, TOKENS, torch.arange(12.0, dtype=torch.float64)),
}
MADE = [name for name in EXPERIMENTS if not name.startswith(("attribution", "integrated", "gradient", "relative"))]


def assert_same_result(ours: Result, theirs: Result) -> None:
    """All but the record."""
    assert (ours.metric, ours.scale, ours.changed) == (theirs.metric, theirs.scale, theirs.changed)
    assert list(ours.axes) == list(theirs.axes)
    assert [list(labels) for labels in ours.axes.values()] == [list(labels) for labels in theirs.axes.values()]
    assert ours.values.dtype == theirs.values.dtype
    assert torch.equal(ours.values, theirs.values)
    assert list(ours.baselines) == list(theirs.baselines)
    assert all(torch.equal(scores, theirs.baselines[name]) for name, scores in ours.baselines.items())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_saved_loaded_and_run_again(name: str, tmp_path: Path) -> None:
    model = model_of("gpt2")
    result = EXPERIMENTS[name](model)
    result.save(tmp_path / "result")
    loaded = Result.load(tmp_path / "result")
    assert_same_result(loaded, result)
    for one in (result, loaded):
        again = one.rerun(model)
        assert_same_result(again, result)
        assert again.record is not None
        assert again.record.calls[-1].function == one.record.calls[-1].function  # type: ignore[union-attr]
    assert loaded.record is not None
    assert loaded.record.calls[-1].function.endswith(name.split()[0])


@pytest.mark.parametrize("name", MADE)
def test_interventions_are_listed_cell_by_cell(name: str, tmp_path: Path) -> None:
    result = EXPERIMENTS[name](model_of("gpt2"))
    result.save(tmp_path / "result")
    table = result.interventions()
    assert result.changed is not None
    assert len(table) == sum(map(len, result.changed))
    assert bool(table["fired"].all())
    assert table["changed"].tolist() == [did for cell in result.changed for did in cell]
    assert result.table()["changed"].tolist() == [any(did) for did in result.changed]
    assert table.equals(Result.load(tmp_path / "result").interventions())
    assert {*result.axes} < {*table.columns}


def test_interventions_in_words() -> None:
    model = model_of("gpt2")
    clean, corrupt, own = Run(TOKENS), Run(OTHER), torch.tensor([1, 3])
    made = [
        Intervention(at("z", 0, head=[0, 2], pos=own), corrupt, mask=0.5),
        Intervention(at("resid_mid", 1), Run(OTHER, [Intervention(at("z", 0), 0.0)])),
        Intervention(at("mlp_out", 1), Mean(clean)),
        Intervention(at("z", 1), Run(OTHER), into=at("q_input", 2, head=1)),
        Intervention(at("resid_pre", 2), 0.0, along=torch.eye(12)[:2]),
        Intervention(at("mlp_out", 2, pos=-1), torch.zeros(12)),
    ]
    result = sweep(
        model,
        lambda cell: Run(TOKENS, made),
        DIFF,
        over={"cell": ["all"]},
        baselines={"clean": clean, "corrupt": corrupt},
        progress=False,
    )
    table = result.interventions()
    assert table["cell"].tolist() == ["all"] * 6
    assert table["hook"].tolist() == [one.site.hook for one in made]
    assert table["selection"].tolist() == ["head=(0, 2), pos=[1, 3]", "", "", "", "", "pos=-1"]
    words = ["corrupt", "another run with 1 interventions", "mean of clean", "corrupt", "0.0", "a tensor [12]"]
    assert table["source"].tolist() == words
    assert table["into"].tolist()[3] == "blocks.2.hook_q_input head=1"
    assert table["along"].tolist()[4] == "2 directions"
    assert table["changed"].tolist() == [True] * 6


def test_changed_tells_what_made_a_difference() -> None:
    """Where the prompts agree nothing can change: before the first token in which they differ."""
    other = TOKENS.clone()
    other[:, 3] = (other[:, 3] + 1) % 19
    result = patch(model_of("gpt2"), other, TOKENS, DIFF, "resid_pre", progress=False)
    table = result.table()
    for row in table.to_dict("records"):
        assert row["changed"] == (row["pos"] == 3 or (row["pos"] > 3 and row["layer"] > 0)), row
    assert result.note == ""
    assert_close(result.values[:, 0], result.baselines["corrupt"].expand(3, -1), RTOL)


def test_path_patching_tells_which_senders_differ() -> None:
    other = TOKENS.clone()
    other[:, 3] = (other[:, 3] + 1) % 19
    result = path_patch(model_of("gpt2"), other, TOKENS, DIFF, "mlp_out", over=("layer", "pos"), progress=False)
    for row in result.table().to_dict("records"):
        assert row["changed"] == (row["pos"] == 4), row  # the only position from which the frozen stream is read
    received = path_patch(
        model_of("gpt2"), other, TOKENS, DIFF, "mlp_out", at("k_input", 2), over=("layer", "pos"), progress=False
    )
    for row in received.table().to_dict("records"):
        assert row["changed"] == (row["pos"] >= 3), row


def test_the_note_says_that_nothing_changed() -> None:
    model = model_of("gpt2")
    still = patch(model, TOKENS, TOKENS, DIFF, "z", over=("layer",), progress=False)
    assert "no difference to recover; no intervention changed anything" in still.note
    alone = sweep(model, lambda layer: Run(TOKENS), DIFF, over={"layer": [0]}, progress=False)
    assert (alone.note, alone.changed) == ("", [[]])
    zero = torch.zeros(())
    idle = sweep(
        model,
        lambda layer: Run(TOKENS, [Intervention(at("z", layer), 1.0, mask=zero)]),
        DIFF,
        over={"layer": [0, 1]},
        baselines={"a": Run(TOKENS), "b": Run(OTHER)},
        scale=("a", "b"),
        progress=False,
    )
    assert idle.note.startswith("no intervention changed anything")
    assert bool(idle.recovered_fraction.abs().lt(1e-9).all()), "the fraction is defined nevertheless"


def test_estimates_have_no_interventions() -> None:
    estimate = EXPERIMENTS["attribution_patch"](model_of("gpt2"))
    assert estimate.changed is None
    assert "changed" not in estimate.table()
    with pytest.raises(BadInput, match="does not come from interventions"):
        estimate.interventions()


# ------------------------------------------------------------------------------------------------------ what is written


def test_what_the_file_says(tmp_path: Path) -> None:
    model = model_of("llama")
    torch.manual_seed(5)
    result = patch(model, TOKENS, OTHER, DIFF, "z", over=("layer", "head"), progress=False)
    result.save(tmp_path / "result")
    told = json.loads((tmp_path / "result" / "result.json").read_text())
    assert told["experiment"] == "experiments.patching.patch"
    assert told["versions"].keys() == {"interp_hooks", "torch", "transformers", "python"}
    assert told["versions"]["interp_hooks"] == interp_hooks.__version__
    assert told["seed"] == 5
    assert told["model"]["name"] == "custom"
    assert told["model"]["dtype"] == "torch.float64"
    assert told["model"]["config"]["n_key_value_heads"] == 2
    assert told["model"]["weights"] == Identity.of(model).weights
    assert told["summary"]["metric"] == "logit_diff"
    assert told["summary"]["axes"] == {"layer": 3, "head": 4}
    assert float(told["summary"]["baselines"]["clean"]) == float(result.baselines["clean"].mean())
    best = result.table()["logit_diff"].idxmax()
    assert told["summary"]["highest"]["head"] == str(best % 4)
    asked = json.loads((tmp_path / "result" / "call.json").read_text())
    assert [name for call in asked["calls"] for name in call] == [
        "experiments.patching.sweep_runs",
        "experiments.patching.patch",
    ]


def test_text_is_kept_as_written_and_as_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = HookedTransformer.from_pretrained("ioi-tiny")
    clean, corrupt = "When Mary and John went, John gave a", "When Mary and John went, Mary gave a"
    result = patch(model, clean, corrupt, LogitDiff(" Mary", " John"), over=("layer",), progress=False)
    result.save(tmp_path / "result")
    loaded = Result.load(tmp_path / "result").record
    assert loaded is not None
    data, asked = loaded.calls
    assert asked.arguments["clean"] == clean
    assert asked.arguments["metric"].answer == " Mary"
    assert torch.equal(data.arguments["baselines"]["corrupt"].tokens, model.to_tokens(corrupt))
    assert torch.equal(data.arguments["metric"].answer, model.token_ids(" Mary").reshape(-1))
    monkeypatch.setattr("interp_hooks.model.tokenization.TextInterface.encode", lambda *given: 1 / 0)
    assert_same_result(Result.load(tmp_path / "result").rerun(model, progress=False), result)
    assert loaded.model.name == "ioi-tiny"  # type: ignore[union-attr]


def test_a_fresh_process_has_it_again(tmp_path: Path) -> None:
    """Everything from the folder: nothing but the model is built anew."""
    model = HookedTransformer.from_pretrained("ioi-tiny")
    prompts = ["When Mary and John went, John gave a", "When Tom and Lucy went, Lucy gave a"]
    result = ablate(model, prompts, LogitDiff([" Mary", " Tom"], [" John", " Lucy"]), method="resample", progress=False)
    result.save(tmp_path / "result")
    code = f"""
import torch
from interp_hooks import HookedTransformer, Result
torch.set_num_threads(1)
result = Result.load({str(tmp_path / "result")!r})
model = HookedTransformer.from_pretrained("ioi-tiny")
again = result.rerun(model, progress=False)
assert torch.equal(again.values, result.values)
again.save({str(tmp_path / "again")!r})
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert_same_result(Result.load(tmp_path / "again"), result)


def test_generators_are_kept_as_they_were(tmp_path: Path) -> None:
    drawing = generator()
    torch.rand(4, generator=drawing)
    before = drawing.get_state()
    ablate(model_of("gpt2"), TOKENS, DIFF, method="resample", generator=drawing, progress=False).save(tmp_path / "it")
    assert not torch.equal(drawing.get_state(), before), "it was used"
    asked = Result.load(tmp_path / "it").record.calls[-1]  # type: ignore[union-attr]
    assert torch.equal(asked.arguments["generator"].state, before)
    assert asked.arguments["generator"].seed == 3


def test_results_without_a_record(tmp_path: Path) -> None:
    own = Result(metric="m", axes={"layer": range(2)}, values=torch.tensor([[1.0], [float("nan")]]))
    own.save(tmp_path / "own")
    loaded = Result.load(tmp_path / "own")
    torch.testing.assert_close(loaded.values, own.values, rtol=0, atol=0, equal_nan=True)
    assert (loaded.axes, loaded.record, loaded.changed) == ({"layer": range(2)}, None, None)
    with pytest.raises(BadInput, match="no record"):
        loaded.rerun(model_of("gpt2"))


# ------------------------------------------------------------------------------------------------------------- refusals


def test_a_folder_is_not_overwritten_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, folder = model_of("gpt2"), tmp_path / "result"
    first, second = (
        patch(model, TOKENS, OTHER, DIFF, site, over=("layer",), progress=False) for site in ("z", "mlp_out")
    )
    first.save(folder)
    with pytest.raises(BadInput, match="holds a result already; overwrite=True"):
        second.save(folder)
    with monkeypatch.context() as patched:
        patched.setattr(Result, "packed", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            second.save(folder, overwrite=True)
    assert_same_result(Result.load(folder), first)
    rename = Path.rename
    failing = lambda path, to: 1 / 0 if path.name.endswith("saving") else rename(path, to)  # noqa: E731
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", failing)
        with pytest.raises(ZeroDivisionError):
            second.save(folder, overwrite=True)
    assert_same_result(Result.load(folder), first)
    with monkeypatch.context() as patched:
        patched.setattr(
            Path, "rename", lambda path, to: os._exit(9) if path.name.endswith("saving") else rename(path, to)
        )
        assert in_a_child(lambda: second.save(folder, overwrite=True)).wait() == 9
    assert_same_result(Result.load(tmp_path / ".result.replaced"), first)
    Path.rename(tmp_path / ".result.replaced", folder)
    second.save(folder, overwrite=True)
    assert_same_result(Result.load(folder), second)
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    result = EXPERIMENTS["ablate"](model_of("gpt2"))
    (tmp_path / "thesis.tex").write_text("")
    for overwrite in (False, True):
        with pytest.raises(BadInput, match=r"something else than a result: thesis\.tex"):
            result.save(tmp_path, overwrite=overwrite)
    with pytest.raises(BadInput, match="is a file"):
        result.save(tmp_path / "thesis.tex")
    (tmp_path / "empty").mkdir()
    result.save(tmp_path / "empty")
    with pytest.raises(BadInput, match="found none"):
        Result.load(tmp_path / "nowhere")


def test_weights_that_were_changed_since(tmp_path: Path) -> None:
    model = build()
    result = EXPERIMENTS["patch"](model)
    old = build()
    with torch.no_grad():
        model.blocks[1].attn.W_Q[0, 0, 0] += 1
    with pytest.raises(BadInput, match="weights were changed since"):
        result.save(tmp_path / "result")
    with pytest.raises(BadInput, match="weights were changed since"):
        result.rerun(model)
    result.save(tmp_path / "result", model=old)
    with pytest.raises(BadInput, match="weights are not those of the result"):
        Result.load(tmp_path / "result").rerun(model)
    assert_same_result(Result.load(tmp_path / "result").rerun(old), result)
    other = Result.load(tmp_path / "result").rerun(model, any_model=True)
    assert not torch.equal(other.values, result.values)


def test_a_model_that_is_gone(tmp_path: Path) -> None:
    model = build()
    result = EXPERIMENTS["patch"](model)
    del model
    gc.collect()
    with pytest.raises(BadInput, match="model of this result is gone"):
        result.save(tmp_path / "result")
    result.save(tmp_path / "result", model=build())
    assert_same_result(Result.load(tmp_path / "result").rerun(build()), result)


def test_tensors_that_were_changed_since(tmp_path: Path) -> None:
    tokens = TOKENS.clone()
    result = patch(model_of("gpt2"), tokens, OTHER, DIFF, progress=False)
    tokens[0, 0] += 1
    with pytest.raises(BadInput, match="changed since"):
        result.save(tmp_path / "result")


def test_another_config(tmp_path: Path) -> None:
    EXPERIMENTS["patch"](model_of("gpt2")).save(tmp_path / "result")
    other = build(attn_scale=3.0)
    with pytest.raises(BadInput, match=r"this model has attn_scale=3\.0, the one of the result 2\.0"):
        Result.load(tmp_path / "result").rerun(other)


HARMLESS: dict[str, Any] = dict(
    model_name="twin",
    original_architecture="GPT2LMHeadModel",
    tokenizer_name="gpt2",
    seed=7,
    init_mode="kaiming_normal",
    initializer_range=0.5,
    init_weights=False,
    use_attn_result=True,
    use_split_qkv_input=True,
    use_attn_in=True,
    use_hook_mlp_in=True,
    use_hook_tokens=True,
    use_attn_scale=False,
)


@pytest.mark.parametrize("field", HARMLESS)
def test_fields_that_change_no_number(field: str, tmp_path: Path) -> None:
    """Where a config came from, how weights began, and what a caching run collects."""
    model = build(attn_scale=1.0)
    result = EXPERIMENTS["patch"](model)
    result.save(tmp_path / "result")
    twin = HookedTransformer(model.cfg.replace(**{field: HARMLESS[field]}), word_tokenizer())
    twin.load_state_dict(model.state_dict())
    assert getattr(twin.cfg, field) != getattr(model.cfg, field)
    assert_same_result(Result.load(tmp_path / "result").rerun(twin), result)


def difference(logits: Tensor) -> Tensor:
    return logits[:, -1, 4] - logits[:, -1, 7]


def test_a_plain_function_is_asked_for(tmp_path: Path) -> None:
    model = model_of("gpt2")
    result = ablate(model, TOKENS, difference, progress=False)
    result.save(tmp_path / "result")
    assert_same_result(result.rerun(model), result)
    loaded = Result.load(tmp_path / "result")
    assert loaded.metric == "difference"
    with pytest.raises(BadInput, match=r"test_record\.difference is a function.*pass it as metric="):
        loaded.rerun(model)
    assert_same_result(loaded.rerun(model, difference), result)
    other = loaded.rerun(model, DIFF)
    assert other.metric == "logit_diff"
    assert torch.equal(other.values, ablate(model, TOKENS, DIFF, progress=False).values)


def test_keeping_a_record_copies_and_hashes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, hashed = model_of("gpt2"), []
    monkeypatch.setattr("interp_hooks.model.identity.hash_of", lambda *given: hashed.append(given))
    result = patch(model, TOKENS, OTHER, DIFF, progress=False)
    assert not hashed
    assert result.record is not None
    assert result.record.calls[0].arguments["runs"][0].tokens is OTHER


def test_a_result_keeps_no_model_alive() -> None:
    """Nor does the function that it was made by, in which a model is at hand."""
    model = build()

    def own(layer: int) -> Run:
        return Run(TOKENS, [Intervention(at("z", model.cfg.n_layers - 1 - layer), 0.0)])

    result = sweep(model, own, DIFF, over={"layer": range(3)}, progress=False)
    gone = weakref.ref(model)
    del model, own
    gc.collect()
    assert gone() is None
    assert result.record is not None
    assert result.record.calls[-1].arguments["run_at"].name.endswith("own")


def test_a_metric_may_run_experiments_itself() -> None:
    """They have records of their own."""
    model, inner = model_of("gpt2"), []

    def metric(logits: Tensor) -> Tensor:
        inner.append(ablate(model, TOKENS, DIFF, "mlp_out", over=("layer",), progress=False))
        return logits[:, -1, 0]

    result = sweep(model, lambda layer: Run(TOKENS), metric, over={"layer": [0]}, progress=False)
    assert result.record is not None
    assert [call.function for call in result.record.calls] == [
        "experiments.patching.sweep_runs",
        "experiments.patching.sweep",
    ]
    assert inner[0].record.calls[-1].function == "experiments.ablation.ablate"


def test_a_sweep_is_still_evaluate() -> None:
    model = model_of("gpt2")
    runs = [run_at(layer, 1) for layer in range(3)]
    result = sweep(model, lambda layer: runs[layer], DIFF, over={"layer": range(3)}, progress=False)
    assert torch.equal(result.rerun(model).values, evaluate(model, runs, DIFF))


def test_a_result_knows_what_was_spliced_in(tmp_path: Path) -> None:
    """A module without weights leaves no trace in the hash of the weights."""
    model = build()
    with model.splice("mlp_out1", torch.nn.ReLU()):
        result = ablate(model, TOKENS, DIFF, "z", over=("layer",), progress=False)
        result.save(tmp_path / "spliced")
        assert torch.equal(Result.load(tmp_path / "spliced").rerun(model).values, result.values)
    with pytest.raises(BadInput, match="this model has splices=None"):
        Result.load(tmp_path / "spliced").rerun(model)
