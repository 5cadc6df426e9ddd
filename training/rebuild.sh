#!/bin/sh
# Trains the demo model from nothing and measures it. Run from the repository root.
set -eu
model=src/llamaherd/models/demo/demo.gguf
python training/train.py --stage 1 --output "$model"
python training/train.py --stage 2 --output "$model"
cp "$model" "$model.stage2"
python training/train.py --stage 3 --output "$model"
python training/average.py "$model.stage2" "$model" "$model"
rm "$model.stage2"
python training/evaluate.py --write training/heldout.jsonl
