"""Packages that are written for TransformerLens, with TransformerLens 3.9.0 and with this one in its place.

    python benchmarks/clients.py [saelens ...] [--sources FOLDER] [--details]

Each client is installed in one environment with TransformerLens 3.9.0 (some against their own pins: they run the same
code, and both sides have what they ask for). Its script (`client_*.py`) runs there twice, unchanged: as it is, and
after `interp_hooks.compat.install()`, which takes the import name, with this folder's package on the path. Models are
tiny and have the same random weights. Compared is every step: whether it runs, and the numbers that it gives (largest
difference beyond a relative and an absolute 1e-4). Printed is a row for each client: steps that run there and here,
numbers that are equal, seconds of CPU of steps that both run.

Clients that are no packages are read from FOLDER, a checkout each, named as on GitHub: EAP-IG (hannamw),
Automatic-Circuit-Discovery (ArthurConmy), and auto-circuit (UFO-101), of which these are the tests. In
transformer_lens-3.9.0, the unpacked source distribution, are demos, notebooks whose cells are the steps; so are those
of the solutions of the ARENA course (callummcdougall/ARENA_3.0) in arena.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peer_suite import WORK
from peer_suite_hub import fill
from peers import environment

HERE = Path(__file__).parent
WITHIN = 1e-4
ENVIRONMENT = (
    "transformer-lens==3.9.0 sae-lens==6.54.12 pytest matplotlib attrs eindex-callum dataclasses-json "
    "frozendict tabulate ordered-set cmapy blobfile pygraphviz wandb torchdata flatten-dict importlib-metadata "
    "networkx ipython kaleido==0.2.1 scikit-learn ipywidgets",
    "circuit-tracer==0.5.0 sae-dashboard==0.8.0 sae-vis==0.3.7 circuitsvis==1.43.3 tuned-lens==0.2.0",
)
INSTEAD = "from interp_hooks import compat; compat.install()\n"
RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"


class Client(NamedTuple):
    """A client: its name, its script, the checkout (or a file in it) that it reads, and the size of random weights."""

    name: str
    script: str
    source: str | None = None
    std: float | None = None

    @property
    def hub(self) -> Path:
        """Where its tiny models lie under names of the hub; they are made if they are not there."""
        hub = WORK / ("hub" if self.std is None else f"hub-{self.std}")
        if not hub.exists():
            fill(hub, self.std)
        return hub


DEMOS = (
    *("ARENA_Content", "Activation_Patching_in_TL_Demo", "Attribution_Patching_Demo", "BERT"),
    *("Direct_Logit_Attribution_Demo", "Exploratory_Analysis_Demo", "Head_Detector_Demo", "Main_Demo"),
    "direct_path_patching_ioi",
)
COURSE = {  # chapters of ARENA by the numbers that they have there
    "1.1": "part1_transformer_from_scratch",
    "1.2": "part2_intro_to_mech_interp",
    "1.4.1": "part3_indirect_object_identification",
    "1.5.1": "part7_balanced_bracket_classifier",
    "1.5.3": "part6_othellogpt",
}
EXERCISES = "arena/chapter1_transformer_interp/exercises"
CLIENTS = {
    "saelens": Client("SAELens 6.54.12", "client_saelens.py"),
    "circuit-tracer": Client("circuit-tracer 0.5.0", "client_circuit_tracer.py"),
    "eap-ig": Client("EAP-IG", "client_eap_ig.py", "EAP-IG"),
    "acdc": Client("ACDC", "client_acdc.py", "Automatic-Circuit-Discovery"),
    "auto-circuit-tests": Client("auto-circuit, tests", "client_tests.py", "auto-circuit"),
    "dashboards": Client("sae-dashboard, sae-vis", "client_dashboards.py"),
    "lenses": Client("tuned-lens, CircuitsVis", "client_lenses.py"),
    **{name: Client(name, "client_demos.py", f"transformer_lens-3.9.0/demos/{name}.ipynb", std=0.2) for name in DEMOS},
    **{
        f"arena-{number}": Client(f"ARENA {number}", "client_demos.py", f"{EXERCISES}/{part}/solutions.py", std=0.2)
        for number, part in COURSE.items()
    },
}


def steps(python: Path, client: Client, sources: Path | None, instead: bool) -> list[dict[str, Any]]:
    """What a client's script tells of its steps."""
    path = [str(HERE)] + ([str(HERE.parent)] if instead else [])
    arguments = [] if client.source is None else [str(sources / client.source)]
    done = subprocess.run(
        [python, "-c", INSTEAD * instead + RUN, HERE / client.script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd="/tmp",
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(client.hub)}
        | {"WANDB_MODE": "disabled"},
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"step"')]


def differing(ours: list[float], theirs: list[float]) -> int:
    """How many numbers are not the same."""
    if len(ours) != len(theirs):
        return max(len(ours), len(theirs))
    left, right = torch.tensor(ours), torch.tensor(theirs)
    return int((~torch.isclose(left, right, rtol=WITHIN, atol=WITHIN, equal_nan=True)).sum())


def main(wanted: list[str], sources: Path | None, details: bool) -> None:
    python = environment(ENVIRONMENT[0], ENVIRONMENT[1])
    print(f"{'client':24} {'steps there':>12} {'here':>6} {'equal numbers':>20} {'seconds there':>14} {'here':>8}")
    for key in wanted or CLIENTS:
        client = CLIENTS[key]
        if client.source and not (sources and (sources / client.source).exists()):
            print(f"{client.name:24} no {client.source} in --sources")
            continue
        theirs, ours = (steps(python, client, sources, instead) for instead in (False, True))
        here = {one["step"]: one for one in ours}
        run = [one for one in theirs if one["error"] is None]
        both = [(one, here[one["step"]]) for one in run if here.get(one["step"], {"error": ""})["error"] is None]
        wrong = {one["step"]: differing(other["numbers"], one["numbers"]) for one, other in both}
        total = sum(len(one["numbers"]) for one, _ in both)
        seconds = [sum(pair[side]["seconds"] for pair in both) for side in (0, 1)]
        equal = f"{total - sum(wrong.values())} of {total}"
        there = f"{len(run)}/{len(theirs)}"
        print(
            f"{client.name:24} {there:>12} {len(both):>6} {equal:>20} {seconds[0]:>14.2f} {seconds[1]:>8.2f}",
            flush=True,
        )
        for one in theirs if details else run:
            step, other = one["step"], here.get(one["step"], {"error": "not reached"})
            if details and one["error"]:
                print(f"    {step}: there {one['error']}")
            if other["error"]:
                print(f"    {step}: here {other['error']}")
            elif wrong.get(step):
                print(f"    {step}: {wrong[step]} of {len(one['numbers'])} numbers differ")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", choices=[[], *CLIENTS])
    parser.add_argument("--sources", type=Path)
    parser.add_argument("--details", action="store_true")
    arguments = parser.parse_args()
    main(arguments.clients, arguments.sources, arguments.details)
