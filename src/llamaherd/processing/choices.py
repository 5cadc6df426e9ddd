"""Texts that may follow a prompt, as a tree of tokens, and how probable each of them is.

Pure: tokens in, log probabilities out. A node is a place where something has to be decided; the
tokens on the way to it are its path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ChoiceTree", "Node"]

Path = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """A place in the tree.

    Attributes:
        path: Tokens from the end of the prompt to here.
        children: Tokens by which the choices go on from here.
        is_end: Whether one of the choices ends here, while others go on.
    """

    path: Path
    children: tuple[int, ...]
    is_end: bool


class ChoiceTree:
    """The choices of a row.

    Args:
        choices: Token ids of each choice; none of them empty, no two alike.
        decisions_only: Keep only nodes at which there is more than one way to go on. Enough to
            compare the choices with each other; without the others their own probability is
            unknown.

    Attributes:
        nodes: Nodes whose scores are needed, the one after the prompt first.
    """

    def __init__(self, choices: Sequence[Sequence[int]], *, decisions_only: bool) -> None:
        self._choices = [tuple(choice) for choice in choices]
        ends = set(self._choices)
        children: dict[Path, dict[int, None]] = {}
        for choice in self._choices:
            for n, token in enumerate(choice):
                children.setdefault(choice[:n], {})[token] = None
        nodes = [Node(path, tuple(tokens), path in ends) for path, tokens in children.items()]
        self.nodes = [
            node
            for node in nodes
            if not node.path or not decisions_only or node.is_end or len(node.children) > 1
        ]

    def log_probabilities(self, scores: Sequence[Sequence[float]]) -> list[float]:
        """How probable each choice is as the next tokens, whatever may come after it.

        Args:
            scores: For each of `nodes`, the natural-log probabilities of its children. The tree
                must hold all nodes.
        """
        steps = self._steps(scores)
        return [
            math.fsum(steps[choice[:n]][token] for n, token in enumerate(choice))
            for choice in self._choices
        ]

    def shares(self, scores: Sequence[Sequence[float]]) -> list[float]:
        """Probability of each choice if the model can give no other answer; the sum is 1.

        At every node the model's probabilities are divided among the ways that lead to a choice,
        as if it generated the answer with everything else forbidden. Where a choice ends and
        others go on, "something else" stands for the end.
        """
        steps = {
            node.path: _normalized(node, node_scores)
            for node, node_scores in zip(self.nodes, scores, strict=True)
        }
        return [self._share(choice, steps) for choice in self._choices]

    def _share(self, choice: Path, steps: dict[Path, dict[int | None, float]]) -> float:
        share = 1.0
        for n, token in enumerate(choice):
            # A node that was left out has only one way to go on.
            share *= steps[choice[:n]][token] if choice[:n] in steps else 1.0
        return share * (steps[choice][None] if choice in steps else 1.0)

    def _steps(self, scores: Sequence[Sequence[float]]) -> dict[Path, dict[int, float]]:
        return {
            node.path: dict(zip(node.children, node_scores, strict=True))
            for node, node_scores in zip(self.nodes, scores, strict=True)
        }


def _normalized(node: Node, scores: Sequence[float]) -> dict[int | None, float]:
    """Shares of the ways to go on from a node; None is the end."""
    # Relative to the best, so that tiny probabilities keep their proportions.
    peak = max(scores)
    if not node.is_end:
        if peak == -math.inf:
            return {token: 1.0 / len(scores) for token in node.children}
        weights: dict[int | None, float] = {
            token: math.exp(score - peak)
            for token, score in zip(node.children, scores, strict=True)
        }
    else:
        weights = {
            token: math.exp(score) for token, score in zip(node.children, scores, strict=True)
        }
        weights[None] = max(0.0, 1.0 - math.fsum(weights.values()))
    total = math.fsum(weights.values())
    return {token: weight / total for token, weight in weights.items()}
