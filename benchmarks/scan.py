"""What a scan of a corpus costs beside the forward passes that it cannot do without.

    python benchmarks/scan.py [--documents 64] [--length 128] [--rounds 3] [--threads 2] [--without-peers]

On a random checkpoint of GPT-2 small's size, documents of random tokens go through all blocks: by passes alone, and by
scans that keep, of all 36,864 neurons and all 144 heads (the norm of what each adds to the stream), the top 20 and
statistics; then histograms and examples from all bands, too. Printed is the time relative to the passes alone (median
over rounds in which all ran one after the other), and how much memory a scan of four times as many documents needs
beyond that of one.

SAEDashboard makes the data of its pages for 256 units at a time, of the same texts on the same weights, and reads the
texts again for each such batch. It runs in an environment of its own, in one run with this package, for a batch of the
first, a middle and the last layer; its time for all neurons is scaled up from these.
"""

import argparse
import math
import statistics

import torch
from common import by_turns, checkpoint, megabytes, ratio, table_row
from peers import DASHBOARD, Peer

from interp_hooks import HookedTransformer
from interp_hooks.corpus import Bands, Histogram, Reducer, Statistics, TopK, Units, neurons, scan
from interp_hooks.corpus.packing import Packer
from interp_hooks.studies.wikis.units import result_norm

AT_ONCE = 2048  # tokens of a pass
BATCH = 256  # units of which SAEDashboard makes pages at a time
ALLOWED = 1.25


HEADS = Units("head", ("z",), of=result_norm)
TOP: dict[str, Reducer] = {
    "top neurons": TopK(neurons(), k=20),
    "top heads": TopK(HEADS, k=20),
    "neurons": Statistics(neurons()),
    "heads": Statistics(HEADS),
}
MORE: dict[str, Reducer] = {**TOP, "histogram": Histogram(neurons()), "bands": Bands(neurons())}


def main(documents: int, length: int, rounds: int, device: str, with_peers: bool) -> None:
    model = HookedTransformer.from_pretrained(str(checkpoint("gpt2-small-sized")), device=device)
    tokens = torch.randint(1, 50_000, (documents, length), generator=torch.Generator().manual_seed(0))
    options = {"tokens_at_once": AT_ONCE, "progress": False}
    packer = Packer(model=model, length=1024, longer="refuse", exclude=("bos",), tokens_at_once=AT_ONCE)
    rows = packer.rows([piece for number, ids in enumerate(tokens) for piece in packer.pieces(number, ids)])

    @torch.no_grad()
    def passes() -> None:
        for part in rows:
            mask, apart = part.real.to(device), part.pieces.to(device)
            model(part.tokens.to(device), return_type=None, attention_mask=mask, documents=apart)

    seconds = by_turns(
        {
            "passes": passes,
            "top 20 and statistics": lambda: scan(model, tokens, TOP, **options),
            "with histograms and bands": lambda: scan(model, tokens, MORE, **options),
        },
        rounds,
    )
    for name in seconds:
        allowed = f" (allowed {ALLOWED})" if name.startswith("top") else ""
        print(f"{name:26} {ratio(seconds, name, 'passes'):6.2f}{allowed}")
    top, more = (ratio(seconds, name, "passes") for name in list(seconds)[1:])
    cfg = model.cfg
    told = (
        f"statistics of {cfg.n_layers * cfg.d_mlp:,} neurons and {cfg.n_layers * cfg.n_heads} heads / the passes alone"
    )
    told += "; with histograms and examples from all bands"
    table_row(f"`corpus.scan` that keeps the top 20 documents and {told}", [top], [more])
    if with_peers:
        batches = model.cfg.n_layers * math.ceil(model.cfg.d_mlp / BATCH)
        peer = Peer(DASHBOARD, "peer_dashboard.py", checkpoint("gpt2-small-sized"), torch.get_num_threads())
        layers = (0, model.cfg.n_layers // 2, model.cfg.n_layers - 1)
        asked = [{"layer": layer, "features": BATCH, "tokens": tokens.tolist()} for layer in (0, *layers)]
        taken = [peer.ask(request)[0] for request in asked][1:]  # the first warms up
        times = batches * statistics.mean(taken) / statistics.median(seconds["passes"])
        print(f"{'SAEDashboard, neurons alone':26} {times:6.2f}")
    once, four = (megabytes(lambda n=n: scan(model, tokens.repeat(n, 1), TOP, **options), device) for n in (1, 4))
    print(f"memory beyond the model: {once:.0f} MB, for four times the documents {four:.0f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--without-peers", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    main(arguments.documents, arguments.length, arguments.rounds, arguments.device, not arguments.without_peers)
