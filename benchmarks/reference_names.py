"""Write interp_hooks/loading/hub_names.json: the hub ids that TransformerLens 3.9.0 knows, each with its other names.

    python benchmarks/reference_names.py

Asks the peer in a virtual environment of its own; ids that have moved on the hub since are those of today.
"""

import json
import subprocess
from pathlib import Path

from peers import environment

FILE = Path(__file__).parents[1] / "interp_hooks" / "loading" / "hub_names.json"
MOVED = {
    "distilgpt2": "distilbert/distilgpt2",
    **{f"gpt2{size}": f"openai-community/gpt2{size}" for size in ("", "-medium", "-large", "-xl")},
}
ASK = """
import json; from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES
print(json.dumps([OFFICIAL_MODEL_NAMES, MODEL_ALIASES]))
"""


def main() -> None:
    done = subprocess.run(
        [environment("transformer-lens==3.9.0"), "-c", ASK], check=True, capture_output=True, text=True
    )
    ids, others = json.loads(done.stdout.splitlines()[-1])
    names = {MOVED.get(one, one): sorted(_others(one, others.get(one, [])), key=str.lower) for one in ids}
    lines = (f"  {json.dumps(one)}: {json.dumps(names[one])}" for one in sorted(names, key=str.lower))
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _others(id: str, aliases: list[str]) -> set[str]:
    """The names of a hub id beside itself; "gpt2" is an id too, under which caches may hold it."""
    return ({*aliases, id} if id in MOVED else {*aliases} - {id}) - {"gpt2"}


if __name__ == "__main__":
    main()
