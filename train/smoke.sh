#!/usr/bin/env bash
# Twenty steps of every training stage on a little data, whose export the runtime must load and match.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=2 TOKENIZERS_PARALLELISM=false
cargo build --locked --bin dream
dream=${CARGO_TARGET_DIR:-target}/debug/dream

"$dream" data --seeds 0..4 --ticks 48 --out "$work/train"
"$dream" data --seeds 4..8 --ticks 48 --policy build --out "$work/build"
"$dream" data --seeds 500000..500004 --ticks 48 --out "$work/heldout" --held-out
common=(--data "$work/train" --held-out "$work/heldout" --config train/tiny.json --max-steps 20)

$python train/test_data.py
$python train/test_walk.py
$python train/text.py --smoke --out "$work/text" --model "$work/model"
$python train/vcn.py "${common[@]}" --out "$work/vcn" --batch 2
$python train/export.py --model "$work/model" --config train/tiny.json --vcn "$work/vcn"
$python train/depth.py "${common[@]}" --model "$work/model" --out "$work/depth" --batch 2
$python train/export.py --model "$work/model" --vcn "$work/depth"
$python train/sharpen.py "${common[@]}" --model "$work/model" --out "$work/sharpen" --batch 2
$python train/export.py --model "$work/model" --vcn "$work/sharpen"
$python train/vcn.py "${common[@]}" --max-steps 2 --init "$work/model" --out "$work/again" --batch 2
# as many processes as a cluster would have, in small
$python -m torch.distributed.run --nproc_per_node 2 train/dit.py "${common[@]}" --model "$work/model" --out "$work/dit" --batch 2
$python train/export.py --model "$work/model" --dit "$work/dit"
$python train/scaling.py "${common[@]}" --max-steps 2 --model "$work/model" --out "$work/scaling" --batch 1
$python train/distill.py "${common[@]}" --model "$work/model" --walks "$work/heldout" --out "$work/distill" --batch 2 --worlds 2
$python train/export.py --model "$work/model" --dit "$work/distill"
$python train/edits.py "${common[@]}" --data "$work/build" --held-out "$work/build" --model "$work/model" --out "$work/edits" --batch 4
$python train/words.py "${common[@]}" --model "$work/model" --out "$work/words"
$python train/export.py --model "$work/model" --edits "$work/edits" --fixture "$work/model"
PARITY_FIXTURE="$work/model" cargo test --locked --test parity --test text_parity
"$dream" render --model "$work/model" --prompt "a meadow at noon" --frames 8 --seed 1 --out "$work/frames/"
ls "$work/frames"
