"""The demo between model and report: what it measures, and what it says of models that do not do the task."""

import pytest
import torch

from interp_hooks import HookedTransformer, LogitDiff
from interp_hooks.views.demo import IOIReport, ioi_report, sections, summary
from tests.views.small import save_checkpoint


def load(folder) -> HookedTransformer:
    return HookedTransformer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> IOIReport:
    return ioi_report(load(save_checkpoint(tmp_path_factory.mktemp("model"))), prompts=6, seed=1)


def text_of(report: IOIReport) -> str:
    return "\n".join(section.text for section in sections(report))


def test_baselines_are_the_models_own(report):
    metric = LogitDiff(report.pairs.answer, report.pairs.wrong).on(report.model)
    torch.testing.assert_close(report.resid.baselines["clean"], metric(report.model(report.pairs.clean)))
    right = (metric(report.model(report.pairs.corrupt)) < 0).float().mean()
    assert report.accuracy("corrupt") == pytest.approx(float(right))


def test_patching_all_of_the_first_stream_that_differs_restores_the_clean_run(report):
    clean, corrupt = (report.model.to_tokens(getattr(report.pairs, kind)) for kind in ("clean", "corrupt"))
    (differing,) = (clean != corrupt).any(0).nonzero()
    assert report.resid.recovered_fraction[0, int(differing)].item() == pytest.approx(1, abs=1e-4)
    assert len(report.pairs.labels) == clean.shape[1]


def test_components_add_up_to_the_clean_baseline(report):
    torch.testing.assert_close(report.components.values.sum(0), report.resid.baselines["clean"], rtol=1e-4, atol=1e-5)


def test_the_top_head_is_the_one_of_the_tables_and_of_the_pattern(report):
    assert list(report.head_effects.axes["head"]) == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert report.head_effects.top(1)["head"].item() == report.head_name
    _, cache = report.model.run_with_cache(report.pairs.clean[0])
    layer, head = report.top_head
    torch.testing.assert_close(report.pattern, cache["pattern", layer][0, head])


def test_each_figure_stands_with_its_explanation(report):
    drawn = [section for section in sections(report, "the command") if section.figure is not None]
    assert [section.figure.data[0].type for section in drawn] == ["heatmap", "heatmap", "bar", "bar", "heatmap"]
    assert all(len(section.text) > 100 for section in drawn)
    assert sections(report, "the command")[-1].code == "the command"
    assert len(sections(report)) == len(sections(report, "the command")) - 1


def test_a_model_that_does_not_do_the_task_is_said_not_to(report):
    assert "hardly does this task" in text_of(report)
    assert "hardly does this task" in summary(report)


def test_without_a_difference_to_recover_the_metric_itself_is_shown(tmp_path):
    report = ioi_report(load(save_checkpoint(tmp_path, knows_anything=False)), prompts=3)
    assert "no difference to recover" in text_of(report)
    assert "no recovered fraction is defined here" in text_of(report)
    assert "no difference to recover" in summary(report)
    figure = next(section.figure for section in sections(report) if section.figure is not None)
    assert figure.data[0].colorbar.title.text == "logit difference (nats)"
    assert report.write(tmp_path / "report.html").exists()


def test_a_single_pair_has_no_standard_error(report, tmp_path):
    single = ioi_report(report.model, prompts=1)
    assert "no standard error" in summary(single)
    assert "nan" not in text_of(single) + summary(single)
    assert single.write(tmp_path / "report.html").exists()


def test_the_bundled_model_does_the_task_and_the_figures_find_it(tmp_path):
    report = ioi_report(HookedTransformer.from_pretrained("ioi-tiny"), prompts=16)
    assert report.accuracy("clean") > 0.9
    assert report.accuracy("corrupt") > 0.9
    assert "Note:" not in summary(report)
    assert report.resid.recovered_fraction.max() == pytest.approx(1, abs=0.05)
    assert report.heads.recovered_fraction.max() > 0.2
