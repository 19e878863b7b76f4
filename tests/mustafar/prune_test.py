"""Each pruner's mask on small tensors where the rules differ, worked out by hand."""

from __future__ import annotations

import pytest
import torch
from mustafar import prune
from torch import Tensor


def tokens(*rows: list[float]) -> Tensor:
    """(1, 1, tokens, D)."""
    return torch.tensor(rows, dtype=torch.float32)[None, None]


def stays(mask: Tensor) -> list[list[int]]:
    """The surviving channels of each token."""
    return [[i for i, x in enumerate(row) if x] for row in mask.flatten(0, -2).tolist()]


V = tokens([1, -8, 3, 4], [5, 2, -7, 1], [2, 9, 1, -3], [4, 3, 2, 6])


def test_the_magnitude_pruners_keep_one_more_than_half() -> None:
    assert [prune.kept(d, s) for d, s in ((128, 0.5), (128, 0.7), (64, 0.5), (64, 0.7))] == [
        65, 40, 33, 21,
    ]  # fmt: skip
    # D = 4, s = .5: k = 2, so 3 stay.
    wanted = [[1, 2, 3], [0, 1, 2], [0, 1, 3], [0, 1, 3]]
    assert stays(prune.Kt_Mag(V, 0.5)) == stays(prune.Vt_Mag(V, 0.5)) == wanted
    assert stays(prune.Kt_Mag(V, 0.0)) == [[0, 1, 2, 3]] * 4


def test_ties_keep_the_lowest_channels_or_all() -> None:
    k = tokens([2, -2, 2, 2], [0, 0, 0, 5])
    assert stays(prune.Kt_Mag(k, 0.75)) == [[0, 1], [0, 3]]  # k = 3: 2 stay
    assert stays(prune.Kt_Mag(k, 0.75, ties="keep")) == [[0, 1, 2, 3], [0, 1, 2, 3]]
    with pytest.raises(ValueError, match='ties must be "lowest" or "keep"'):
        prune.Kt_Mag(k, 0.5, ties="all")  # type: ignore[arg-type]


def test_vc_mag_compares_the_tokens_of_a_channel() -> None:
    # Groups of two tokens, s = .5: k = 1, both stay; of four, k = 2: three of a channel.
    assert prune.Vc_Mag(V, 0.5, group_size=2).all()
    mask = prune.Vc_Mag(V, 0.5, group_size=4)
    # Channels: 1 5 2 4, 8 2 9 3, 3 7 1 2, 4 1 3 6: the smallest of each goes.
    assert [[i for i in range(4) if not mask[0, 0, i, c]] for c in range(4)] == [[0], [1], [2], [1]]
    with pytest.raises(ValueError, match="a multiple of group_size = 3 tokens"):
        prune.Vc_Mag(V, 0.5, group_size=3)


def test_kt_opa_weighs_channels_by_the_queries() -> None:
    # Two query heads, one kv head; the last two of three queries count.
    q = torch.tensor(
        [[[9, 9, 9, 9], [1, 0, 2, 0], [1, 0, 0, 2]], [[9, 9, 9, 9], [0, 0, 4, 0], [0, 2, 0, 0]]]
    )
    importance = prune.query_importance(q[None].float(), 1, group_size=2)
    assert importance.tolist() == [[[1.0, 1.0, 3.0, 1.0]]]
    # Scores 1 8 9 4, 5 2 21 1, 2 9 3 3 (a tie), 4 3 6 6; two stay.
    assert stays(prune.Kt_Opa(V, importance, 0.5)) == [[1, 2], [0, 2], [1, 2], [2, 3]]
    # By magnitude alone token 0 would keep 1 and 3.
    assert stays(prune.Kt_Opa(V, torch.ones(1, 1, 4), 0.5))[0] == [1, 3]
    per_token = torch.ones(1, 1, 4, 4)
    per_token[0, 0, 3, 2] = 4
    assert stays(prune.Kt_Opa(V, per_token, 0.5))[3] == [2, 3]
    with pytest.raises(ValueError, match="importance must be"):
        prune.Kt_Opa(V, torch.ones(1, 1, 3), 0.5)


def test_vt_opa_is_the_order_of_magnitudes_with_its_own_count() -> None:
    # D = 4, s = .5: 2 stay, not the 3 of Vt_Mag.
    assert stays(prune.Vt_Opa(V, 0.5)) == [[1, 3], [0, 2], [1, 3], [0, 3]]


def test_vc_opa_weighs_tokens_by_the_attention() -> None:
    p = torch.zeros(1, 2, 3, 4)
    p[0, 0, 1] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    p[0, 1, 2] = torch.tensor([0.9, 0.0, 0.0, 0.1])
    p[0, :, 0] = 9  # before the last two queries
    weights = prune.attention_weights(p, 1, group_size=2)
    torch.testing.assert_close(weights, torch.tensor([[[1.0, 0.2, 0.3, 0.5]]]))
    # Scores: channel 0: 1 1 .6 2, 1: 8 .4 2.7 1.5, 2: 3 1.4 .3 1, 3: 4 .2 .9 3.
    mask = prune.Vc_Opa(V, weights, 0.5)
    chosen = [[i for i in range(4) if mask[0, 0, i, c]] for c in range(4)]
    assert chosen == [[0, 3], [0, 2], [0, 1], [0, 3]]
    # By magnitude channel 1 keeps the same, channel 0 tokens 1 and 3.
    plain = prune.Vc_Opa(V, torch.ones(1, 1, 4), 0.5)
    assert [i for i in range(4) if plain[0, 0, i, 0]] == [1, 3]
    # Groups of two: one of each pair.
    pairs = prune.Vc_Opa(V, weights, 0.5, group_size=2)
    assert [[i for i in range(4) if pairs[0, 0, i, c]] for c in range(4)] == [
        [0, 3], [0, 2], [0, 3], [0, 3],
    ]  # fmt: skip


def test_a_share_of_tokens_loses_none_to_floating_point() -> None:
    mask = prune.Vc_Opa(torch.ones(1, 1, 1000, 1), torch.ones(1, 1, 1000), 0.8)
    assert int(mask.sum()) == 200


def test_think_drops_the_channels_with_the_least_energy() -> None:
    q = torch.tensor([[[[1.0, 2, 0, 1]], [[1, 2, 2, 1]]]])  # mean squares 1 4 2 1
    # Mean squares of K: 11.5, 39.5, 15.75, 15.5: energies 11.5, 158, 31.5, 15.5.
    mask = prune.ThinK(V, q, 0.5)
    assert mask.shape == (1, 1, 1, 4) and stays(mask) == [[1, 2]]
    assert stays(prune.ThinK(V, torch.ones(1, 2, 1, 4), 0.25)) == [[1, 2, 3]]
    # D = 128, s = .7: 89 go.
    k = torch.arange(128.0)[None, None, None].expand(1, 1, 3, 128)
    assert int((~prune.ThinK(k, torch.ones(1, 1, 1, 128), 0.7)).sum()) == 89


def test_thinv_goes_by_the_values_alone() -> None:
    assert stays(prune.ThinV(V, 0.5)) == [[1, 2]]
    assert stays(prune.ThinV(V, 0.25)) == [[1, 2, 3]]


def test_two_rules_agree_where_they_should() -> None:
    x = torch.randn(2, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prune.Kt_Mag(x, 0.5), prune.Vt_Mag(x, 0.5))
    importance = torch.full((2, 3, 128), 2.0)
    assert torch.equal(prune.Kt_Opa(x, importance, 0.5), prune.Vt_Opa(x, 0.5))


@pytest.mark.parametrize("s", [-0.1, 0.96])
def test_sparsities_out_of_range_are_refused(s: float) -> None:
    for call in (
        lambda: prune.Kt_Mag(V, s),
        lambda: prune.Vt_Opa(V, s),
        lambda: prune.ThinV(V, s),
    ):
        with pytest.raises(ValueError, match=r"must be from 0 to 0\.95"):
            call()
