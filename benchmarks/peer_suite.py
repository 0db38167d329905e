"""Run TransformerLens' own tests of its HookedTransformer twice: with TransformerLens 3.9.0, and with this package.

    python benchmarks/peer_suite.py FOLDER [--only unit/test_utils.py] [--full]

FOLDER is an unpacked source distribution of transformer-lens 3.9.0; its tests stay there. They run offline, twice in
the peer's virtual environment: as they are, and after `interp_hooks.compat.install()`, with this package on the path.
Models and tokenizers that the tests ask for by name are found in a HuggingFace cache of tiny random ones, made here. A
test counts if 3.9.0 passes it; every one that then fails here is listed with its error. Tests of the bridge, of its
adapters and of what is only there for them are left out. What 3.9.0 passed is kept beside the cache, so that later runs
only run this package.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
PYTEST = (
    "pytest==9.2.0",
    "pytest-mock==3.17.0",
    "pytest-timeout==2.4.0",
    "pluggy",
    "iniconfig",
    "packaging",
    "pygments",
)
# What is no test of HookedTransformer: of the bridge, of its command lines, of analyses that need it, of LIT and audio;
# and of functions that no code outside of their library calls, which place layers on devices, repeat downloads, convert
# one family's config or weights, or process a state dict for both kinds of models.
OTHERS = re.compile(
    r"model_bridge|benchmark|model_registry|scripts|weight_conversion|factories|lit\.py|hubert|make_docs|gradient_mismatch"
    r"|backward_lens|projection_kernel|svd_circuits|aliases|supported_models"
    r"|multi_gpu|test_devices|hf_utils|dropped_inference|gpt_oss|tracr|post_norm_processing|test_weight_processing|moe_fold"
)
# Why a test that 3.9.0 passes does not pass here; the first that matches.
REASONS = {
    "fails_without_d_mlp": "a config always has d_mlp: None means 4 * d_model, also where it is assigned",
    "4bit": "4 bits: their code is run with a mock of bitsandbytes; here weights are dense",
    "tensor_like": "FactoredMatrix: objects that are no tensors",
    "add_hook_prepend": "mocks of torch's hooks, whose handles hook points there consist of",
    "legacy_hook_points_import": "a warning that the name has moved there; both names are right here",
    "test_hooked_root_module": "private methods, on mocks of hook points",
    "invalid_direction|invalid_vector_type|invalid_head_name|non_1d_input|TypeCheck": (
        "errors of a type checker that runs with their tests; here BadInput, in everybody's runs"
    ),
    "conditional_hooks": "hook_result and its like can be hooked whatever the flags say",
    "get_basic_config": "for an integration of LIT",
}
OF_OTHERS = re.compile(r"TransformerBridge|model_bridge|JacobianLens|jacobian_lens|model_registry|verify_models")
TYPES = {"transformer_lens": ["--jaxtyping-packages=transformer_lens,beartype.beartype"]}  # as in their own runs
WORK = HERE / "environments" / "peer-suite"
EXTRA = WORK / "site-packages"  # a name by which dill knows that nothing in it need be pickled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an unpacked source distribution of transformer-lens 3.9.0")
    parser.add_argument("--only", nargs="+", default=[], help="files below tests/, instead of all")
    parser.add_argument("--peer", type=Path, help="an interpreter that has transformer-lens 3.9.0 (default: made here)")
    parser.add_argument("--full", action="store_true", help="print tracebacks of what fails here")
    given = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    if not EXTRA.exists():
        target = ["--quiet", "--no-deps", "--target", str(EXTRA)]
        subprocess.run([sys.executable, "-m", "pip", "install", *target, *PYTEST], check=True)
    if not (WORK / "hub").exists():
        from peer_suite_hub import fill

        fill(WORK / "hub")
    from peers import environment

    files, peer = given.only or files_of(given.folder), given.peer or environment("transformer-lens==3.9.0")
    theirs = by_the_peer(given.folder.resolve(), files, peer)
    ours = run(given.folder.resolve(), files, peer, "interp_hooks", given.full)
    report(theirs, ours)


def files_of(folder: Path) -> list[str]:
    """The test files of HookedTransformer and what belongs to it."""
    tests = folder / "tests"
    found = [*sorted((tests / "unit").rglob("test_*.py")), *sorted((tests / "integration").rglob("test_*.py"))]
    kept = [one for one in found if not OTHERS.search(str(one.relative_to(tests)))]
    return [str(one.relative_to(tests)) for one in kept if not OF_OTHERS.search(one.read_text(encoding="utf-8"))]


def by_the_peer(folder: Path, files: list[str], peer: Path) -> dict[str, str]:
    """What 3.9.0 gives for each test of the files; read from the last run, as far as that ran them."""
    kept = WORK / "peer.json"
    known: dict[str, dict[str, str]] = json.loads(kept.read_text()) if kept.exists() else {}
    if new := [one for one in files if one not in known]:
        found = run(folder, new, peer, "transformer_lens")
        for file in new:
            known[file] = {test: error for test, error in found.items() if test.startswith(f"tests/{file}::")}
        kept.write_text(json.dumps(known, indent=1))
    return {test: error for file in files for test, error in known[file].items()}


def run(folder: Path, files: list[str], python: Path, package: str, full: bool = False) -> dict[str, str]:
    """The error of each test, "" where it passed and "skipped" where it did not run."""
    result = WORK / f"{package}.json"
    result.unlink(missing_ok=True)
    path = [str(HERE), str(EXTRA)] + ([str(HERE.parent)] if package == "interp_hooks" else [])
    variables = dict(
        PYTHONPATH=os.pathsep.join(path), HF_HOME=str(WORK / "hub"), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1",
        OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1", PEER_SUITE=json.dumps([package, str(result)]),
    )  # fmt: skip
    command = [
        *(str(python), "-m", "pytest", "-q", "-p", "peer_suite_plugin", "-p", "no:cacheprovider", "-c", os.devnull),
        *("--rootdir", str(folder), "--timeout=300", *TYPES.get(package, ())),
        *("--continue-on-collection-errors", "--tb=short" if full else "--tb=no", "-W", "ignore", "--no-header"),
        *(f"tests/{file}" for file in files),
    ]
    done = subprocess.run(command, cwd=folder, env=os.environ | variables, text=True, capture_output=not full)
    if not result.exists():
        raise SystemExit(f"pytest did not come to its end:\n{done.stdout}{done.stderr}")
    return json.loads(result.read_text())


def report(theirs: dict[str, str], ours: dict[str, str]) -> None:
    passed = [test for test, error in theirs.items() if not error]
    files = {test.split("::")[0]: ours.get(test.split("::")[0], "not collected") for test in passed}
    failed = {test: error for test in passed if (error := ours.get(test, files[test.split("::")[0]]))}
    reasons = Counter()
    for file, number in Counter(test.split("::")[0] for test in failed).items():
        print(f"\n{file}: {number}")
        for test, error in failed.items():
            if test.startswith(f"{file}::"):
                print(f"    {test.removeprefix(f'{file}::')}: {error}")
                reasons[next((why for like, why in REASONS.items() if re.search(like, test)), "?")] += 1
    print("\n" + "\n".join(f"{number:4} {why}" for why, number in reasons.most_common()))
    here = len(passed) - len(failed)
    print(f"\n{len(theirs)} tests: TransformerLens 3.9.0 passes {len(passed)}, this package {here} of these")


if __name__ == "__main__":
    main()
