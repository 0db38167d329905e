"""torchrun's ranks and Ray's actors find, together, the bits that one worker finds."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from interp_hooks import HookedTransformer
from interp_hooks.corpus import Bands, Reducer, Scan, Statistics, TopK, gather, neurons, scan, scan_by_rank
from interp_hooks.errors import BadInput
from tests.corpus.test_scanning import assert_same

TEXTS = [f"When Mary and John went to the store, John gave a {thing} to" for thing in ("drink", "ring", "box")] * 7
REDUCERS: dict[str, Reducer] = {
    "top": TopK(neurons(), k=3),
    "bands": Bands(neurons()),
    "statistics": Statistics(neurons()),
}
ROOT = Path(__file__).parents[2]


def load() -> HookedTransformer:
    torch.set_num_threads(1)
    return HookedTransformer.from_pretrained("ioi-tiny", device="cpu")


def by_one_worker() -> Scan:
    threads = torch.get_num_threads()
    try:
        return scan(load(), TEXTS, REDUCERS, per_batch=4, progress=False)
    finally:
        torch.set_num_threads(threads)


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_two_ranks(tmp_path: Path) -> None:
    run("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", __name__, "ranks", str(tmp_path / "scan"))
    assert_same(gather(tmp_path / "scan", REDUCERS), by_one_worker())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs pip install 'interp-hooks[ray]'")
def test_two_actors(tmp_path: Path) -> None:
    run("-m", __name__, "ray", str(tmp_path / "scan"))
    assert_same(gather(tmp_path / "scan", REDUCERS), by_one_worker())


def test_without_torchrun_there_are_no_ranks(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="runs under torchrun"):
        scan_by_rank(load(), TEXTS, REDUCERS, save_to=tmp_path)


def main(driver: str, folder: str) -> None:
    if driver == "ranks":
        found = scan_by_rank(load(), TEXTS, REDUCERS, save_to=folder, per_batch=4, progress=False)
        assert found is None or found.n_documents == len(TEXTS)
        return
    import ray  # pyright: ignore[reportMissingImports]

    from interp_hooks.corpus import scan_on_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    found = scan_on_ray(load, TEXTS, REDUCERS, save_to=folder, workers=2, parts=3, per_batch=4)
    assert found.n_documents == len(TEXTS)
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
