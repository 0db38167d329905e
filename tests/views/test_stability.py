"""The picture of a circuit's stability shows the numbers of its table."""

import pytest
import torch

from interp_hooks import LogitDiff
from interp_hooks.circuits import circuit_stability
from interp_hooks.errors import BadInput
from interp_hooks.views import stability_figure
from interp_hooks.views.adapting import MUTED, POSITIVE
from tests.tiny import build, random_tokens


def test_a_bar_for_each_edge() -> None:
    tokens, other = (random_tokens(batch=6, pos=5, d_vocab=23, seed=seed) for seed in (1, 2))
    metric = LogitDiff(torch.arange(6), torch.arange(6) + 7, pos=-1)
    stable = circuit_stability(
        build(), tokens, other, metric, method="eap", n_edges=20, samples=9, splits=2, nulls=1, progress=False
    )
    table = stable.table().head(25)
    drawn = stability_figure(stable, top=25)
    assert list(drawn.data[0].x) == table["inclusion"].tolist()
    assert list(drawn.data[0].marker.color) == [POSITIVE if one else MUTED for one in table["circuit"]]
    edge = f"{table['writer'][3]}->{table['reader'][3]}".replace("<", "&lt;").replace(">", "&gt;")
    assert edge in drawn.data[0].hovertext[3]
    assert drawn.layout.shapes[0].x0 == pytest.approx(20 / len(stable.circuit.graph))
    assert f"{float(stable.halves.mean()):.2f}" in drawn.layout.title.text
    assert "9 samples of 6 prompts" in drawn.layout.xaxis.title.text
    with pytest.raises(BadInput, match="at least 1"):
        stability_figure(stable, top=0)
