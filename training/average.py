"""Averages the weights of two exported models, which keeps what each does better.

Run ``python training/average.py a.gguf b.gguf out.gguf``. Both must come from the same training.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from export import export_gguf, load_gguf
from model import DemoModel, ModelConfig
from tokenizer import tokenizer_text, train_tokenizer
from train import TOKENIZER_EXAMPLES, VOCAB_SIZE


def main() -> None:
    """Reads the command line and writes the average."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="of the training")
    args = parser.parse_args()
    tokenizer = train_tokenizer(tokenizer_text(args.seed, TOKENIZER_EXAMPLES), VOCAB_SIZE)
    first, second = (DemoModel(ModelConfig(vocab_size=VOCAB_SIZE)) for _ in range(2))
    load_gguf(first, tokenizer, args.first)
    load_gguf(second, tokenizer, args.second)
    other = second.state_dict()
    first.load_state_dict({name: (w + other[name]) / 2 for name, w in first.state_dict().items()})
    export_gguf(first, tokenizer, args.output)


if __name__ == "__main__":
    main()
