"""What fits of lenses cost beside the passes that they cannot do without, and beside the packages that fit them.

    python benchmarks/lenses.py [--documents 8] [--length 64] [--rounds 3] [--threads 2] [--without-peers]

On a random checkpoint of 6 layers and width 256, over documents of random words. A Jacobian lens needs, for every
batch, a pass forward on as many copies of it as rows are made at once, and a pass back for every so many rows: "bare"
are just these, by `torch.autograd.grad` with respect to the embeddings alone. A tuned lens needs a pass forward, and
for every layer the final norm, the unembedding and the way back through both: "bare" are just these, of the streams as
they are. Printed is the time of fits relative to them (median over rounds in which all ran one after the other), and
the memory of a Jacobian fit beside that of the Jacobians of all pairs of positions, which it never makes.

Peers run in environments of their own, by turns with this package in one run, and must give the same numbers: the
Jacobian lens of TransformerLens, and the tuned lens of the package tuned-lens, by the loop of its trainer.
"""

import argparse
import math
import statistics

import torch
from common import by_turns, checkpoint, megabytes, ratio
from peers import LENSES, Peer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interp_hooks import HookedTransformer
from interp_hooks.hooks.modes import with_constant_weights
from interp_hooks.studies import Lens, fit_jacobian_lens, fit_tuned_lens

COPIES, SKIP = 8, 4
ALLOWED = 1.25


def folder_with_words() -> str:
    """The checkpoint, with a tokenizer whose tokens are the words w0, w1, ..."""
    folder = checkpoint("gpt2-lens-sized")
    if not (folder / "tokenizer.json").exists():
        words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(8192)}, unk_token="w0"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
        PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w0").save_pretrained(folder)
    return str(folder)


def main(documents: int, length: int, rounds: int, threads: int, with_peers: bool) -> None:
    folder = folder_with_words()
    model = HookedTransformer.from_pretrained_no_processing(folder).eval()
    cfg, generator = model.cfg, torch.Generator().manual_seed(0)
    tokens = torch.randint(1, cfg.d_vocab, (documents, length), generator=generator)
    tokens[:, 0] = 0  # BOS
    texts = [" ".join(f"w{id}" for id in row[1:]) for row in tokens.tolist()]
    n_tokens = documents * length

    @with_constant_weights
    def jacobian_passes() -> None:
        for batch in tokens.split(8):
            stream = model(batch.repeat(COPIES, 1), stop_at_layer=0).detach().requires_grad_()
            final = model(stream, start_at_layer=0, stop_at_layer=cfg.n_layers)
            for row in range(math.ceil(cfg.d_model / COPIES)):
                torch.autograd.grad(final[..., row].sum(), stream, retain_graph=True)

    @with_constant_weights
    def tuned_passes() -> None:
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens, return_type=None, names_filter=lambda name: "resid" in name)
        said = model.logits(cache["resid_post", -1]).log_softmax(-1).detach()
        for layer in range(cfg.n_layers):
            stream = cache["resid_pre", layer].detach().requires_grad_()
            log_probs = model.logits(stream).log_softmax(-1)
            torch.autograd.grad((said.exp() * (said - log_probs)).sum(), stream)

    def jacobian(at_once: int = length) -> Lens:
        layers = range(1, cfg.n_layers)
        options = dict(skip_first=SKIP, length=length, dims_at_once=COPIES, tokens_at_once=at_once)
        return fit_jacobian_lens(model, tokens, layers=layers, progress=False, **options)

    def tuned(steps: int = 1) -> Lens:
        options = dict(tokens_per_step=n_tokens, tokens_at_once=n_tokens, clip=1e9, exclude=())
        return fit_tuned_lens(model, tokens, steps=steps, progress=False, **options)

    fits = {"Jacobian lens": jacobian, "tuned lens, a step": tuned}
    seconds = by_turns({"bare Jacobian": jacobian_passes, "bare tuned": tuned_passes, **fits}, rounds)
    for name, bare in zip(fits, ("bare Jacobian", "bare tuned"), strict=True):
        print(f"{name:20} {ratio(seconds, name, bare):6.2f} of the bare passes (allowed {ALLOWED})")
    used = megabytes(jacobian, "cpu")
    pairs = 4 * cfg.n_layers * (length * cfg.d_model) ** 2 / 1e6
    print(f"memory of a Jacobian fit: {used:.0f} MB; all pairs of positions of one text would take {pairs:.0f} MB")
    if not with_peers:
        return
    requests = {
        "jacobian": (jacobian, {"texts": texts, "skip_first": SKIP, "length": length}),
        "tuned": (lambda: tuned(steps=3), {"rows": tokens.tolist(), "steps": 3}),
    }
    for name, (requirement, kind) in LENSES.items():
        peer, (ours, request) = Peer(requirement, "peer_lenses.py", kind, folder, threads), requests[kind]
        check(ours(), peer.ask(request)[2])
        ratios, theirs = [], 0.0
        for _ in range(rounds):
            taken, theirs, _ = peer.ask(request)
            ratios.append(taken / by_turns({"ours": ours}, 1)["ours"][0])
        memory = f"memory {theirs:.0f} MB, ours {megabytes(ours, 'cpu'):.0f} MB"
        print(f"{kind} lens: {name} / ours {statistics.median(ratios):.2f}, same numbers; {memory}")


def check(lens: Lens, numbers: list) -> None:
    """The peer's numbers are ours: corners of Jacobians by layer, or what remains of the KL in every layer."""
    if lens.facts.get("kl_nats") is None:
        for layer, corner in numbers:  # after block `layer`, so before the next one
            found = lens.maps[layer + 1][:3, :5]
            assert torch.allclose(found.float(), torch.tensor(corner), rtol=1e-3, atol=1e-4), (found, corner)
    else:
        found = torch.tensor(list(lens.facts["kl_nats"].values()))
        assert torch.allclose(found.float(), torch.tensor(numbers), rtol=1e-3), (found, numbers)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--without-peers", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    main(arguments.documents, arguments.length, arguments.rounds, arguments.threads, not arguments.without_peers)
