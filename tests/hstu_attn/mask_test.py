"""What every mask means: ref.visible and the kernels' mask.h against loops, and the pictures."""

from __future__ import annotations

import hstu_attn.interface
import pytest
import torch
from hstu_attn import ref
from hypothesis import given
from hypothesis import strategies as st


def sees(
    i: int,
    j: int,
    k_len: int,
    window: tuple[int, int],
    contexts: int,
    targets: int,
    group: int,
) -> bool:
    """The definition, one pair of positions at a time."""
    history_end = k_len - targets
    left, right = window
    if i >= history_end and j >= history_end:
        return (i - history_end) // group == (j - history_end) // group and j <= i
    if i < contexts and j < history_end:
        return True
    return (left < 0 or j >= i - left) and (right < 0 or j <= i + right)


lengths = st.integers(0, 12)
sides = st.integers(-1, 13)
groups = st.integers(1, 5)


@given(lengths, lengths, sides, sides)
def test_windows_are_what_the_loop_says(q_len: int, k_len: int, left: int, right: int) -> None:
    q_len = min(q_len, k_len)
    got = ref.visible(q_len, k_len, window=(left, right))
    for r in range(q_len):
        for j in range(k_len):
            i = r + k_len - q_len
            assert got[r, j].item() == sees(i, j, k_len, (left, right), 0, 0, 1)


@given(lengths, lengths, st.integers(0, 14), lengths, groups)
def test_contexts_and_targets_are_what_the_loop_says(
    q_len: int, k_len: int, contexts: int, targets: int, group: int
) -> None:
    q_len, targets = min(q_len, k_len), min(targets, k_len)
    got = ref.visible(
        q_len, k_len, window=(-1, 0), contexts=contexts, targets=targets, group_size=group
    )
    for r in range(q_len):
        for j in range(k_len):
            i = r + k_len - q_len
            assert got[r, j].item() == sees(i, j, k_len, (-1, 0), contexts, targets, group)


@given(lengths, lengths, st.sampled_from([1, 3, 5]), st.data())
def test_func_is_a_union_of_intervals(
    q_len: int, k_len: int, n_func: int, data: st.DataObject
) -> None:
    ends = data.draw(
        st.lists(
            st.lists(st.integers(-2, 15), min_size=q_len, max_size=q_len),
            min_size=n_func,
            max_size=n_func,
        )
    )
    func = torch.tensor(ends, dtype=torch.int32).reshape(n_func, q_len)
    got = ref.visible(q_len, k_len, func=func)
    for r in range(q_len):
        f = [0, *(ends[n][r] for n in range(n_func))]
        for j in range(k_len):
            expected = any(f[n] <= j < f[n + 1] for n in range(0, n_func, 2))
            assert got[r, j].item() == expected


def visible_by_the_kernels(
    k_len: int, window: tuple[int, int], contexts: int, targets: int, group: int
) -> torch.Tensor:
    """The (k_len, k_len) mask from the row spans of csrc/hstu_attn/mask.h."""
    spans = torch.ops.hstu_attn.mask_rows(k_len, *window, contexts, targets, group)
    begin, history, start, end = spans.long()[:, :, None].unbind(1)
    j = torch.arange(k_len)[None, :]
    return ((j >= begin) & (j < history)) | ((j >= start) & (j < end))


@given(lengths, sides, sides)
def test_the_kernels_see_the_windows_of_the_reference(k_len: int, left: int, right: int) -> None:
    got = visible_by_the_kernels(k_len, (left, right), 0, 0, 1)
    assert torch.equal(got, ref.visible(k_len, k_len, window=(left, right)))


@given(st.integers(0, 40), st.integers(0, 45), st.integers(0, 40), st.integers(1, 50))
def test_the_kernels_see_the_contexts_and_targets_of_the_reference(
    k_len: int, contexts: int, targets: int, group: int
) -> None:
    targets = min(targets, k_len)
    got = visible_by_the_kernels(k_len, (-1, 0), contexts, targets, group)
    expected = ref.visible(
        k_len, k_len, window=(-1, 0), contexts=contexts, targets=targets, group_size=group
    )
    assert torch.equal(got, expected)


def test_a_window_beyond_32_bits_is_no_bound() -> None:
    got = visible_by_the_kernels(5, (2**40, 0), 0, 0, 1)
    assert torch.equal(got, ref.visible(5, 5, window=(-1, 0)))


def test_mask_rows_refuses_more_targets_than_columns() -> None:
    with pytest.raises(RuntimeError, match="mask_rows needs"):
        torch.ops.hstu_attn.mask_rows(3, -1, 0, 0, 5, 1)


def drawn(doc: str, after: str, column: int, rows: int) -> list[str]:
    """The picture under the heading that contains ``after``: ``rows`` lines at this column."""
    lines = doc.splitlines()
    first = next(n for n, line in enumerate(lines) if after in line) + 1
    found: list[str] = []
    for line in lines[first:]:
        cell = line[column:].split(" ")[0] if len(line) > column else ""
        if set(cell) <= {"#", "."} and cell:
            found.append(cell)
        if len(found) == rows:
            return found
    raise AssertionError(f"no picture under {after!r}")


@pytest.mark.parametrize(
    ("heading", "column", "q_len", "mask"),
    [
        ("none (-1,-1)", 4, 6, {}),
        ("none (-1,-1)", 20, 6, {"window": (-1, 0)}),
        ("none (-1,-1)", 36, 6, {"window": (1, 1)}),
        ("none (-1,-1)", 52, 3, {"window": (-1, 0)}),
        ("2 contexts  ", 4, 6, {"window": (-1, 0), "contexts": 2}),
        ("2 contexts  ", 20, 6, {"window": (-1, 0), "targets": 2}),
        ("2 contexts  ", 36, 6, {"window": (-1, 0), "targets": 4, "group_size": 2}),
        ("2 contexts  ", 52, 6, {"window": (-1, 0), "contexts": 2, "targets": 2}),
    ],
)
def test_the_pictures_in_the_docstring_are_true(
    heading: str, column: int, q_len: int, mask: dict[str, object]
) -> None:
    picture = drawn(hstu_attn.interface.__doc__ or "", heading, column, q_len)
    seen = ref.visible(q_len, 6, **mask)  # type: ignore[arg-type]
    assert picture == ["".join("#" if x else "." for x in row) for row in seen.tolist()]
