"""How the next token is drawn from logits.

    logits --repetition_penalty--> / temperature --> - freq_penalty * count --top_k--> --top_p--> softmax --> token

At temperature 0 the token with the largest logit is taken, and only the repetition penalty acts. A count is how often
the token already occurs in its row. Draws are made in float32 by `torch.multinomial`, so that a seed means the same in
every dtype.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp_hooks.errors import BadInput
from interp_hooks.errors.arguments import checked


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A rule for drawing tokens.

    `top_k` keeps the k largest scores and those equal to the smallest of them. `top_p` keeps the fewest tokens, from
    the most likely on, whose probabilities sum to at least p (Holtzman et al. 2020, arxiv.org/abs/1904.09751).
    `repetition_penalty` divides the positive logits of tokens that have occurred, and multiplies the negative ones
    (Keskar et al. 2019, arxiv.org/abs/1909.05858).

    Raises:
        BadInput: a value out of range, or a frequency penalty that greedy decoding would ignore.
    """

    top_k: int | None = None
    top_p: float | None = None
    temperature: float = 1.0
    freq_penalty: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        penalty = self.repetition_penalty
        demands = [
            ("top_k", self.top_k, "at least 1", self.top_k is None or self.top_k >= 1),
            ("top_p", self.top_p, "above 0 and at most 1", self.top_p is None or 0 < self.top_p <= 1),
            ("temperature", self.temperature, "finite and at least 0", 0 <= self.temperature < math.inf),
            ("freq_penalty", self.freq_penalty, "finite", math.isfinite(self.freq_penalty)),
            ("repetition_penalty", penalty, "finite and above 0", 0 < penalty < math.inf),
        ]
        for name, value, demand, met in demands:
            if not met:
                raise BadInput(f"{name} must be {demand}, got {value}")
        if self.temperature == 0 and self.freq_penalty:
            raise BadInput(
                "freq_penalty is subtracted from logits / temperature, so greedy decoding (temperature=0 or "
                "do_sample=False) would ignore it"
            )

    @property
    def counts_tokens(self) -> bool:
        """Whether the rule depends on how often tokens have occurred."""
        return self.freq_penalty != 0 or self.repetition_penalty != 1

    def scores(
        self, logits: Float[Tensor, "*batch d_vocab"], counts: Int[Tensor, "*batch d_vocab"] | None
    ) -> Float[Tensor, "*batch d_vocab"]:
        """The logits of the distribution that tokens are drawn from; -inf for tokens that are never drawn."""
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.repetition_penalty != 1:
            assert counts is not None
            lowered = torch.where(scores > 0, scores / self.repetition_penalty, scores * self.repetition_penalty)
            scores = torch.where(counts > 0, lowered, scores)
        if self.temperature == 0:
            return scores
        scores = scores / self.temperature
        if self.freq_penalty:
            assert counts is not None
            scores = scores - self.freq_penalty * counts
        if self.top_k is not None:
            smallest = scores.topk(min(self.top_k, scores.shape[-1])).values[..., -1:]
            scores = scores.masked_fill(scores < smallest, -torch.inf)
        if self.top_p is not None and self.top_p < 1:
            ordered, order = scores.sort(descending=True, stable=True)
            before = F.pad(ordered.softmax(-1).cumsum(-1)[..., :-1], (1, 0))
            scores = scores.scatter(-1, order, ordered.masked_fill(before >= self.top_p, -torch.inf))
        return scores

    def draw(
        self,
        logits: Float[Tensor, "*batch d_vocab"],
        counts: Int[Tensor, "*batch d_vocab"] | None,
        generator: torch.Generator | None,
    ) -> Int[Tensor, "*batch"]:
        """One token for each row of logits, on their device; a generator may live on another one.

        Raises:
            BadInput: logits that are nan or infinite, or that leave no token.
        """
        highest = logits.detach().amax(-1)  # nan passes through
        if not bool(highest.isfinite().all()):
            row = int((~highest.isfinite()).reshape(-1).nonzero()[0])
            worst = "nan" if bool(highest.isnan().any()) else f"{float(highest.reshape(-1)[row])} at most"
            raise BadInput(f"logits must be finite to draw a token from; those of row {row} are {worst}")
        scores = self.scores(logits, counts)
        if self.temperature == 0:
            return scores.argmax(-1)
        probabilities = scores.float().softmax(-1)
        there = probabilities.device if generator is None else generator.device
        rows = probabilities.to(there).reshape(-1, scores.shape[-1])
        return torch.multinomial(rows, 1, generator=generator).reshape(scores.shape[:-1]).to(logits.device)


def token_counts(
    tokens: Int[Tensor, "*batch pos"], d_vocab: int, real: Bool[Tensor, "*batch pos"] | None = None
) -> Int[Tensor, "*batch d_vocab"]:
    """How often each of the first `d_vocab` tokens occurs in each row, not counting padding."""
    seen = torch.ones_like(tokens) if real is None else real.to(tokens.dtype)
    counts = seen.new_zeros(*tokens.shape[:-1], d_vocab + 1)  # the last one: tokens that are read but never written
    return counts.scatter_add(-1, tokens.clamp(max=d_vocab), seen)[..., :-1]


@checked
def sample_logits(
    final_logits: Float[Tensor, "*batch d_vocab"],
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    freq_penalty: float = 0.0,
    *,
    repetition_penalty: float = 1.0,
    tokens: Int[Tensor, "*batch pos"] | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "*batch"]:
    """One token for each row of logits, drawn by the rule of `Sampling` with these values.

    The penalties count `tokens`, those of each row so far. Without a generator torch's global one draws.

    Raises:
        BadInput: a value out of range, or a penalty without the tokens that it counts; logits that are nan or infinite.
    """
    rule = Sampling(
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        freq_penalty=freq_penalty,
        repetition_penalty=repetition_penalty,
    )
    if rule.counts_tokens and tokens is None:
        raise BadInput("freq_penalty and repetition_penalty count the tokens so far: pass tokens= [batch, pos]")
    counts = token_counts(tokens, final_logits.shape[-1]) if rule.counts_tokens and tokens is not None else None
    return rule.draw(final_logits, counts, generator)
