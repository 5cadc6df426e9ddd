#!/bin/sh
# Trains the demo model from nothing and measures it. Run from the repository root.
set -eu
python training/train.py
python training/evaluate.py --write training/heldout.jsonl
