import pytest
import torch

from interp_hooks.errors import BadInput
from interp_hooks.views.attention import attention_pattern

PATTERN = torch.tensor([[1.0, 0.0], [0.25, 0.75]])


def test_rows_are_queries_and_columns_keys():
    figure = attention_pattern(PATTERN, ["<b>", " to"])
    trace = figure.data[0]
    assert trace.z == ([1.0, 0.0], [0.25, 0.75])
    assert (trace.zmin, trace.zmax) == (0, 1)
    assert trace.hovertext[1][0] == "·to (1) attends to &lt;b&gt; (0)<br>with probability 0.25"
    assert figure.layout.yaxis.title.text.startswith("query")
    assert figure.layout.xaxis.title.text.startswith("key")
    assert figure.layout.yaxis.autorange == "reversed"
    assert figure.layout.xaxis.ticktext == figure.layout.yaxis.ticktext == ("&lt;b&gt;", "·to")


def test_equal_tokens_stay_apart():
    assert attention_pattern(PATTERN, ["a", "a"]).data[0].x == (0, 1)


def test_a_pattern_in_half_precision_with_a_gradient():
    pattern = PATTERN.bfloat16().requires_grad_()
    assert attention_pattern(pattern, ["a", "b"]).data[0].z[1] == [0.25, 0.75]


def test_several_heads_stand_beside_each_other():
    patterns = torch.rand(4, 2, 2).softmax(-1)
    figure = attention_pattern(patterns, ["a", " b"], heads=["L0H0", "L0H1", "<b>", 3], title="all")
    assert [trace.z for trace in figure.data] == [tuple(map(list, one.tolist())) for one in patterns]
    assert [one.text for one in figure.layout.annotations] == ["L0H0", "L0H1", "&lt;b&gt;", "3"]
    axes = [figure.layout[f"yaxis{number}"] for number in ("", 2, 3, 4)]
    assert all(axis.autorange == "reversed" for axis in axes)
    assert len({tuple(axis.domain) for axis in axes}) == 2, "two rows of two"
    assert all(figure.layout[f"xaxis{number}"].ticktext == ("a", "·b") for number in ("", 2, 3, 4))
    assert [bool(trace.showscale) for trace in figure.data] == [True, False, False, False]
    with pytest.raises(BadInput, match="heads must name each of 4 patterns, got 1"):
        attention_pattern(patterns, ["a", "b"], heads=["L0H0"])
    with pytest.raises(BadInput, match=r"expected patterns \[head, query, key\], got shape \[2, 2\]"):
        attention_pattern(PATTERN, ["a", "b"], heads=["L0H0"])


def test_one_pattern_and_a_token_for_each_position():
    with pytest.raises(BadInput, match=r"got shape \[1, 2, 2\]; pick a prompt and a head"):
        attention_pattern(PATTERN[None], ["a", "b"])
    with pytest.raises(BadInput, match="2 positions, got 3 tokens"):
        attention_pattern(PATTERN, ["a", "b", "c"])
