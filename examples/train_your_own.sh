#!/usr/bin/env bash
# Tune the shipped model on a few rows of your own, then ask it. Run from anywhere, with `tunesmith` on the PATH.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for n in 1 2 3 4 5 6 7 8; do
  echo "{\"instruction\": \"Where is locker $n?\", \"input\": \"\", \"output\": \"Locker $n is on floor $((n * 3)).\"}"
done > "$work/lockers.jsonl"

tunesmith datasets add lockers "$work/lockers.jsonl" --home "$work/home"
tunesmith train lockers --epochs 20 --batch-size 8 --learning-rate 3e-3 --rank 16 --alpha 32 --output adapters/lockers --home "$work/home"
tunesmith compare adapters/lockers --prompt "Where is locker 3?" --home "$work/home"
