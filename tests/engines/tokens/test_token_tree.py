"""Trees of tokens: nothing is lost, nothing is read twice, and every token sees its own line
only.
"""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")

import torch
from hypothesis import given
from hypothesis import strategies as st

from medtask.engines.hf.model_runner import make_segment
from medtask.engines.hf.packed_attention import KvCache, build_pass
from medtask.engines.tokens.token_tree import build_token_tree, count_tree_tokens

# Few different tokens and a common beginning: paths that share much, end inside each other, or are
# the same.
PATHS = st.lists(st.lists(st.integers(0, 2), max_size=9), min_size=1, max_size=7).map(
    lambda paths: [(7, 8, 9, *path) for path in paths]
)


def list_prefixes(paths: list[tuple[int, ...]]) -> set[tuple[int, ...]]:
    return {path[:length] for path in paths for length in range(1, len(path) + 1)}


@given(paths=PATHS, skip=st.integers(0, 2), most=st.integers(1, 40))
def test_every_path_is_in_the_tree_and_what_paths_share_is_there_once(
    paths: list[tuple[int, ...]], skip: int, most: int
) -> None:
    tree = build_token_tree(paths, skip, most)
    assert [
        tuple(tree.tokens[index] for index in tree.get_path(end)) for end in tree.path_ends
    ] == [path[skip:] for path in paths]
    assert (
        len(tree.tokens)
        == len(list_prefixes([path[skip:] for path in paths]))
        == count_tree_tokens(paths) - skip
    )


@given(paths=PATHS, most=st.integers(1, 40), window=st.sampled_from([None, 1, 3, 6]))
def test_cut_in_pieces_every_token_is_behind_its_ancestors_and_sees_no_other(
    paths: list[tuple[int, ...]], most: int, window: int | None
) -> None:
    tree = build_token_tree(paths, 0, most)
    prefix, own = KvCache(tokens=4), KvCache()
    indices: list[int] = []
    for piece, start in enumerate(tree.chunk_starts):
        segment = make_segment(tree, piece, indices)
        assert len(segment.tokens) <= max(most, *map(len, paths))
        plan = build_pass([segment], prefix, own, torch.device("cpu"))
        indices += plan.token_indices(0)
        prefix_hidden, hidden = plan.get_masks(
            window, slice(0, 1), slice(0, len(segment.tokens)), plan.key_indices.shape[1]
        )
        for at in range(len(segment.tokens)):
            chain = tree.get_path(start + at)
            assert plan.positions[at] == prefix.tokens + len(chain) - 1
            seen = plan.key_indices[0][~hidden.expand(1, len(segment.tokens), -1)[0, at]]
            assert sorted(seen.tolist()) == sorted(chain[-window:] if window else chain)
            if window:
                # Nothing is hidden of a prefix that a window reaches whole.
                reached = (
                    prefix.tokens
                    if prefix_hidden is None
                    else int((~prefix_hidden.expand(1, len(segment.tokens), -1)[0, at]).sum())
                )
                assert reached == max(0, min(prefix.tokens, window - len(chain)))
    assert indices == list(range(len(tree.tokens)))


def test_a_lone_path_is_a_plain_segment() -> None:
    segment = make_segment(build_token_tree([(1, 2, 3)], 1, 10), 0, [])
    assert (segment.tokens, segment.ancestors, segment.parents) == ([2, 3], [], None)
