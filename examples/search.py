"""Search a small collection in three ways, and measure each against judgments by nDCG.

python examples/search.py [model.gguf]

Without a model the bundled one is used, which was not made for search: the figures then say little.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from llamaherd import Embedder, LateInteractionScorer, Model, MultiVectorGenerator, Reranker

DOCUMENTS = {
    "sourdough": "Feed the starter with flour and water for a week until it doubles within hours.",
    "bread": "Bread is baked in a very hot oven; steam in the first minutes gives a thin crust.",
    "pasta": "Cook the noodles in salted boiling water and stop while they are still firm.",
    "knife": "A dull kitchen blade is dangerous. Draw it over a whetstone at a steady angle.",
    "saturn": "The rings of Saturn are made of countless pieces of ice, most smaller than a house.",
    "moon": "The Moon turns once on its axis per orbit, so that we always see the same side.",
    "tides": "Sea level rises and falls twice a day because of the pull of the Moon and the Sun.",
    "eclipse": "When the Moon passes between Earth and Sun, its shadow darkens a strip of land.",
    "vaccine": "A shot shows the immune system a harmless part of a virus, so that it is prepared.",
    "fever": "A high body temperature is a defense against germs; drink a lot and rest.",
    "sleep": "Adults who rest less than six hours a night react slowly and fall ill more often.",
    "antibiotic": "These drugs kill bacteria, but do nothing against a cold, which viruses cause.",
    "inflation": "When prices in general rise, the same money buys less than the year before.",
    "rates": "The central bank made loans more expensive in order to slow down rising prices.",
    "shares": "Whoever owns stock of a company owns a part of it and gets a part of its profit.",
    "budget": "Write down what you earn and spend each month, and put something aside first.",
    "offside": "A player is offside who is nearer to the goal than the ball and the last defender.",
    "marathon": "The runners cover a little over 42 kilometers, mostly on paved roads.",
    "chess": "A game ends at once when the king is attacked and cannot get out of it.",
    "swim": "In front crawl the arms pull in turn while the legs kick without a pause.",
    "glacier": "Snow that does not melt is pressed into ice, which slowly flows downhill.",
    "volcano": "Molten rock from the depth of the Earth breaks out and builds a mountain of ash.",
    "battery": "Lithium ions move from one electrode to the other while the device is in use.",
    "solar": "Light sets electrons in the silicon free, which gives a current without any noise.",
}
# How well documents answer a query: 2 for an answer, 1 for something near it, 0 for all others.
QUERIES = {
    "How do I get a good crust?": {"bread": 2, "sourdough": 1},
    "making my own leaven": {"sourdough": 2, "bread": 1},
    "al dente": {"pasta": 2},
    "How to sharpen tools for cooking?": {"knife": 2},
    "Why does the ocean go up and down?": {"tides": 2, "moon": 1},
    "Why can't we see the far side?": {"moon": 2},
    "What happens when the sun is covered?": {"eclipse": 2, "tides": 1},
    "planet with a disk around it": {"saturn": 2},
    "Which medicine helps against a bacterial infection?": {"antibiotic": 2, "vaccine": 1},
    "protection from getting infected": {"vaccine": 2, "fever": 1},
    "tired all day": {"sleep": 2},
    "cost of living goes up": {"inflation": 2, "rates": 1, "budget": 1},
    "Why did my mortgage become more costly?": {"rates": 2, "inflation": 1},
    "investing in a business": {"shares": 2, "budget": 1},
    "rule about the position of the striker": {"offside": 2},
    "long distance race": {"marathon": 2, "swim": 1},
    "checkmate": {"chess": 2},
    "energy from the sun": {"solar": 2, "battery": 1},
    "lava": {"volcano": 2},
    "How is power stored in a phone?": {"battery": 2, "solar": 1},
}
NAMES = list(DOCUMENTS)
TEXTS = list(DOCUMENTS.values())


def main() -> None:
    source = next((word for word in sys.argv[1:] if word.endswith(".gguf")), "demo")
    with Model.load(source) as model:
        show("one vector per text", by_vectors(model))
        show("one vector per token", by_tokens(model))
        if source == "demo" or model.embeddings.n_classes:
            show("reading both together", by_reranker(model))


def by_vectors(model: Model) -> Callable[[str], list[str]]:
    embedder = Embedder(model)
    vectors = embedder.embed(TEXTS, "document")

    def search(query: str) -> list[str]:
        scores = vectors @ embedder.embed(query, "query")
        return [NAMES[i] for i in np.argsort(-scores, kind="stable")[:5]]

    return search


def by_tokens(model: Model) -> Callable[[str], list[str]]:
    generator = MultiVectorGenerator(model)
    scorer = LateInteractionScorer(generator.embed(TEXTS), ids=NAMES)
    return lambda query: list(scorer.search(generator.embed(query, "query"), top_k=5).ids)


def by_reranker(model: Model) -> Callable[[str], list[str]]:
    reranker = Reranker(model)
    return lambda query: [NAMES[i] for i in reranker.rank(query, TEXTS, top_k=5).ids]


def show(name: str, search: Callable[[str], list[str]]) -> None:
    found = {query: search(query) for query in QUERIES}
    mean = np.mean([ndcg(found[query], grades) for query, grades in QUERIES.items()])
    first = np.mean([QUERIES[query].get(names[0]) == 2 for query, names in found.items()])
    print(f"{name:22} nDCG@5 {mean:.3f}, the answer first for {first:.0%}")


def ndcg(names: list[str], grades: dict[str, int]) -> float:
    """Discounted gain of the documents found, as a share of the best order's."""
    discounts = 1 / np.log2(np.arange(2, 2 + len(names)))
    gains = [2 ** grades.get(name, 0) - 1 for name in names]
    best = sorted((2**grade - 1 for grade in grades.values()), reverse=True)[: len(names)]
    return float(discounts @ gains / (discounts[: len(best)] @ best))


if __name__ == "__main__":
    main()
