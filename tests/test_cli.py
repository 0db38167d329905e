"""The command line: what it accepts and refuses, and what it leaves behind."""

import json
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers

import interp_hooks
from interp_hooks import HookedTransformer
from interp_hooks.cli import main
from interp_hooks.loading import parity
from interp_hooks.loading.families import FAMILIES
from interp_hooks.loading.listing import markdown
from interp_hooks.studies import Wiki
from tests.views.small import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("model"))


def demo(*arguments: object) -> int:
    return main(["demo", *map(str, arguments)])


def test_demo_prints_tables_and_writes_a_report(checkpoint, tmp_path, capsys):
    out = tmp_path / "report.html"
    assert demo("--model", checkpoint, "--out", out, "--prompts", 4) == 0
    printed = capsys.readouterr().out
    for title in ("without any patching", "heads by direct effect", "by patching z", "by patching resid_pre"):
        assert title in printed
    assert f"report: {out}" in printed
    command = shlex.join(
        ["interp-hooks", "demo", "--model", str(checkpoint), "--prompts", "4", "--seed", "0", "--out", str(out)]
    )
    assert command in out.read_text(encoding="utf-8")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="tables of a wiki need pyarrow")
def test_demo_writes_a_wiki_and_leads_to_it(checkpoint, tmp_path, capsys):
    out, pages = tmp_path / "report.html", tmp_path / "every head"
    assert demo("--model", checkpoint, "--out", out, "--prompts", 2, "--wiki", pages) == 0
    assert f"wiki: {pages / 'index.html'}" in capsys.readouterr().out
    assert (pages / "index.html").exists()
    assert '<a href="every%20head/index.html">Open the wiki</a>' in out.read_text(encoding="utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    assert demo("--model", checkpoint, "--out", out, "--wiki", tmp_path / "other") == 2
    assert "thesis.tex" in capsys.readouterr().err


def test_the_command_in_the_report_makes_the_same_report(checkpoint, tmp_path):
    first, again = tmp_path / "report.html", tmp_path / "again"
    demo("--model", checkpoint, "--out", first, "--prompts", 3, "--seed", 7)
    first.rename(again)
    demo("--model", checkpoint, "--out", first, "--prompts", 3, "--seed", 7)
    assert first.read_bytes() == again.read_bytes()
    demo("--model", checkpoint, "--out", first, "--prompts", 3, "--seed", 8)
    assert first.read_bytes() != again.read_bytes()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{tmp}/nowhere", "there is no folder"),
        ("{tmp}/empty", "no config.json"),
        ("{tmp}/file", "is a file"),
    ],
)
def test_what_is_no_checkpoint_is_refused_with_one_message(model, message, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    out = tmp_path / "report.html"
    out.write_text("old")
    assert demo("--model", model.format(tmp=tmp_path), "--out", out) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("interp-hooks: error: ")
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not printed.out
    assert out.read_text() == "old"


def test_a_model_that_reads_no_text_is_refused(checkpoint, tmp_path, capsys):
    transformers.AutoModelForCausalLM.from_pretrained(checkpoint).save_pretrained(tmp_path / "no-text")
    assert demo("--model", tmp_path / "no-text", "--out", tmp_path / "report.html") == 2
    assert "has no tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["missing/report.html", ".", "/dev/null"])
def test_a_place_that_cannot_be_written_is_refused_before_any_computing(out, tmp_path, capsys, monkeypatch):
    def load(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(interp_hooks.HookedTransformer, "from_pretrained", load)
    monkeypatch.chdir(tmp_path)
    assert demo("--out", out) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["demos"], "invalid choice: 'demos'"),
        (["demo", "--prompts", "0"], "must be at least 1, got 0"),
        (["demo", "--prompts", "many"], "expected a whole number, got 'many'"),
        (["demo", "--seed", "-1"], "must be at least 0, got -1"),
        (["demo", "--modle", "gpt2"], "unrecognized arguments: --modle gpt2"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_an_interruption_is_no_traceback(monkeypatch, tmp_path, capsys):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(interp_hooks.HookedTransformer, "from_pretrained", interrupt)
    assert demo("--out", tmp_path / "report.html") == 130
    assert capsys.readouterr().err == "interp-hooks: interrupted\n"
    assert not list(tmp_path.iterdir())


def test_a_bug_keeps_its_traceback_and_is_no_difference(monkeypatch, tmp_path, capsys):
    """Python's own exit code for an exception is 1, which `verify` gives for models that differ."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("somewhere")

    monkeypatch.setattr(interp_hooks.HookedTransformer, "from_pretrained", fail)
    assert demo("--out", tmp_path / "report.html") == 3
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("ZeroDivisionError: somewhere\n")


def test_the_module_is_the_command():
    for arguments, code in ((["--version"], 0), (["verify", "/no/such/folder"], 2), (["no such command"], 2)):
        done = subprocess.run([sys.executable, "-m", "interp_hooks", *arguments], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
    assert "interp-hooks: error" in done.stderr


def test_a_terminal_that_cannot_show_every_token(checkpoint, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "interp_hooks", "demo", "--model", checkpoint, "--prompts", "2"],
        cwd=tmp_path,
        env={"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "?to" in done.stdout
    assert (tmp_path / "report.html").exists()


def test_version_and_help_load_nothing_heavy():
    code = "import sys; from interp_hooks.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print({'torch', 'transformers', 'plotly', 'pandas'} & set(sys.modules))"
    for argument, expected in {"--version": interp_hooks.__version__, "--help": "demo"}.items():
        done = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True)
        assert expected in done.stdout
        assert done.stdout.endswith("set()\n")


# -------------------------------------------------------------------------------------------------------------- verify


def verify(*arguments: object) -> int:
    return main(["verify", *map(str, arguments)])


def test_verify_prints_the_table_and_exits_0(checkpoint, capsys):
    assert verify(checkpoint) == 0
    printed = capsys.readouterr().out
    assert "PASSED" in printed
    assert "GPT2LMHeadModel, float32" in printed
    assert "fold_ln: applied" in printed


def test_verify_prints_json(checkpoint, capsys):
    assert verify(checkpoint, "--json", "--no-processing", "--dtype", "float64", "--text", "When Mary and John") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["dtype"] == "float64"
    assert report["tokens"] == 5, "four words and a BOS"
    assert report["max_error"] < 1e-9, "GPT-2 computes in float64 throughout"
    assert all(line.endswith("not asked for") for line in report["processing"])


def test_verify_exits_1_where_models_differ(checkpoint, capsys, monkeypatch):
    right = parity.verify

    def edited(model: HookedTransformer, *arguments: object) -> object:
        with torch.no_grad():
            model.blocks[0].attn.W_O[0, 0, 0] += 5
        return right(model, *arguments)

    monkeypatch.setattr(parity, "verify", edited)
    assert verify(checkpoint) == 1
    assert "FAILED" in capsys.readouterr().out
    assert verify(checkpoint, "--json") == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/nowhere"], "there is no folder"),
        (["{tmp}"], "no config.json"),
        (["{checkpoint}", "--dtype", "int8"], "dtype must be a floating torch dtype"),
        (["{checkpoint}", "--dtype", "float31"], "dtype must be a floating torch dtype"),
        (["{checkpoint}", "--dtype", "float8_e4m3fn"], "dtype must be a floating torch dtype"),
    ],
)
def test_verify_exits_2_where_there_is_nothing_to_compare(arguments, message, checkpoint, tmp_path, capsys):
    assert verify(*(one.format(tmp=tmp_path, checkpoint=checkpoint) for one in arguments)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("interp-hooks: error: ")
    assert message in printed.err
    assert not printed.out


# ---------------------------------------------------------------------------------------------------------------- diff


def diff(*arguments: object) -> int:
    return main(["diff", *map(str, arguments)])


def test_diff_writes_a_page_and_the_numbers(checkpoint, tmp_path, capsys):
    texts, out = tmp_path / "texts.txt", tmp_path / "d"
    texts.write_text("When Mary and John went to the store\nThen Mary gave a ring to John\n" * 8)
    model = HookedTransformer.from_pretrained(str(checkpoint))
    with torch.no_grad():
        model.blocks[1].attn.W_O *= 2
    model.save_pretrained(tmp_path / "other")
    options = ("--texts", texts, "--out", out, "--prompts", 2, "--limit", 10)
    for _ in range(2):  # the second time in place of the first
        assert diff(checkpoint, tmp_path / "other", *options) == 0
        printed = capsys.readouterr().out
        assert "weights changed most, relative to their size, in L1H" in printed
        assert f"diff: {out / 'index.html'}" in printed
        assert sorted(one.name for one in out.iterdir()) == ["index.html", "numbers"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert shlex.join(["interp-hooks", "diff", str(checkpoint), str(tmp_path / "other"), "--texts", str(texts)]) in page
    found = json.loads((out / "numbers" / "diff.json").read_text())
    assert found["names"] == [str(checkpoint), str(tmp_path / "other")]
    assert any("brings 100% of the difference in loss" in one["claim"] for one in found["findings"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--texts", "nowhere.txt"], "there is no file nowhere.txt"),
        (["--out", "no/where"], "there is no folder"),
        (["--out", "full"], "holds something else than a diff (diary)"),
        (["--out", "full/diary"], "holds something else than a diff (diary)"),
    ],
)
def test_diff_refuses_before_a_model_is_loaded(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(interp_hooks.HookedTransformer, "from_pretrained", lambda *_: 1 / 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary").touch()
    assert diff("ioi-tiny", "ioi-tiny", *options) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_models_that_have_nothing_in_common_are_refused(checkpoint, tmp_path, capsys):
    assert diff(checkpoint, "induction-1l", "--out", tmp_path / "d") == 2
    assert "nothing that both can read" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------- wiki


def wiki(*arguments: object) -> int:
    return main(["wiki", *map(str, arguments)])


def test_wiki_writes_a_folder_and_says_where(checkpoint, tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "When Mary and John went to"}\n{"text": "Then Mary gave a ring to John"}\n' * 2)
    out = tmp_path / "w"
    options = ("--out", out, "--corpus", corpus, "--limit", 3, "--top", 2, "--no-causal", "--neuronpedia")
    assert wiki(checkpoint, *options) == 0
    assert capsys.readouterr().out == f"wiki: {out / 'index.html'}\n"
    made = Wiki(out)
    assert made.about["corpus"] == "corpus.jsonl"
    assert made.about["n_documents"] == 3
    assert made.examples.query("band == 'top'")["rank"].max() == 1
    assert "mean_ablation_loss_increase" not in made.heads
    assert (out / "neuronpedia" / "heads" / "0" / "1.json").exists()


def test_wiki_without_a_corpus_makes_one(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert wiki(checkpoint, "--limit", 4, "--seed", 3) == 0
    made = Wiki("wiki")
    assert made.about["corpus"] == "256 generated sentences about giving (seed 3)"
    assert "mean_ablation_loss_increase" in made.heads


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--corpus", "nowhere.txt"], "there is no file nowhere.txt"),
        (["--corpus", "corpus.pdf"], "of an unknown kind"),
        (["--out", "no/where"], "there is no folder"),
        (["--out", "full"], "holds something else than a wiki (diary)"),
    ],
)
def test_wiki_refuses_before_a_model_is_loaded(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(interp_hooks.HookedTransformer, "from_pretrained", lambda *_: 1 / 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary").touch()
    (tmp_path / "corpus.pdf").touch()
    assert wiki("ioi-tiny", *options) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.pdf", "full"]


def test_wiki_without_pyarrow_is_refused_with_one_message(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert wiki("ioi-tiny", "--out", tmp_path / "w") == 2
    assert (
        capsys.readouterr().err
        == "interp-hooks: error: a wiki is written with pyarrow: pip install 'interp-hooks[wiki]'\n"
    )


# ------------------------------------------------------------------------------------------------------------ families


def test_families_lists_every_architecture(capsys):
    assert main(["families"]) == 0
    printed = capsys.readouterr().out
    there = [family for family in FAMILIES.values() if family.architecture != family.model_type]
    assert len(there) > 40, "those that the installed transformers has"
    for family in there:
        assert family.model_type in printed
        assert family.architecture in printed
    assert main(["families", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert table == markdown() + "\n"
    assert table != printed
    assert [family.model_type for family in there if f"`{family.model_type}`" not in table] == []


def test_an_empty_text_is_a_text(checkpoint, tmp_path, capsys):
    """One token, its BOS, is read, and not the sentences that are read where no text is given."""
    assert main(["verify", str(checkpoint), "--json", "--text", ""]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 1
    assert main(["verify", str(checkpoint), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] > 9


def test_a_text_for_a_checkpoint_that_reads_none(checkpoint, tmp_path, capsys):
    bare = tmp_path / "bare"
    shutil.copytree(checkpoint, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    assert main(["verify", str(bare), "--text", "the cat"]) == 2
    assert "this model has no tokenizer" in capsys.readouterr().err
    assert main(["verify", str(bare), "--json"]) == 0


# ------------------------------------------------------------------------------------------------------------ training


def training(*arguments: object) -> int:
    return main(["training", *map(str, arguments)])


def test_training_prints_what_changed_and_writes_a_page(tmp_path, capsys):
    out, kept = tmp_path / "t.html", tmp_path / "kept"
    options = ("--rows", 4, "--steps", "64,128,256,362,512,609,724,1024", "--save-to", kept, "--out", out)
    assert training("induction-steps", *options) == 0
    printed = capsys.readouterr().out
    assert "8 checkpoints of this training were measured, steps 64 to 1024." in printed
    assert "repetition loss falls from" in printed
    assert printed.endswith(f"report: {out}\n")
    command = (
        "interp-hooks training induction-steps --steps 64,128,256,362,512,609,724,1024 --rows 4 --seed 0 --save-to"
    )
    assert command in out.read_text(encoding="utf-8")
    assert len(list((kept / "steps").iterdir())) == 8
    page = out.read_bytes()
    assert training("induction-steps", *options) == 0
    assert out.read_bytes() == page


def test_training_of_a_folder_of_huggingface_checkpoints_on_a_corpus(checkpoint, tmp_path, capsys):
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.eos_token = tokenizer.bos_token  # which parts texts
    tokenizer.save_pretrained(checkpoint := shutil.copytree(checkpoint, tmp_path / "own"))
    for step in (0, 10, 20, 40, 80, 160):
        shutil.copytree(checkpoint, tmp_path / "run" / f"checkpoint-{step}")
    corpus = tmp_path / "texts.txt"
    corpus.write_text("When Mary and John went to the store, John gave a ring to Mary\n" * 60)
    assert training(tmp_path / "run", "--corpus", corpus, "--rows", 2, "--out", tmp_path / "t.html") == 0
    printed = capsys.readouterr().out
    assert "repetition_loss" in printed
    assert "Nothing changed abruptly" in printed, "six times the same"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all"], "there is no folder"),
        (["empty"], "has no checkpoints in it"),
        (["induction-steps", "--steps", "5"], "there is no checkpoint of step 5"),
        (["induction-steps", "--out", "no/where.html"], "there is no folder"),
        (["induction-steps", "--corpus", "nowhere.txt"], "there is no file nowhere.txt"),
        (["induction-steps", "--steps", "0,4"], "at least 6 checkpoints, got 2"),
        (["mod-add", "--modulus", "99"], "p must be 3..54"),
    ],
)
def test_training_is_refused_with_one_message(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert training(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_steps_that_are_no_numbers(capsys):
    with pytest.raises(SystemExit):
        main(["training", "mod-add", "--steps", "0,many"])
    assert "expected a whole number, got 'many'" in capsys.readouterr().err
