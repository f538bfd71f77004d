#!/usr/bin/env bash
# Goes on training models/overworld's DiT, then distils it, on two cores or a GPU: records what data is missing, resumes runs/dit and
# runs/distill where they stopped, or begins from the committed weights with a fresh optimizer.
#
#     train/campaign.sh 80 40      # minutes of both schedules; the same numbers resume
#     kill -STOP -- -$(cat runs/pid)   and -CONT: a rest, for a benchmark; -TERM saves and ends
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:?how many minutes of training?} distil=${2:?how many minutes of distillation?}
python=${PYTHON:-python3}
if [ -z "${CAMPAIGN:-}" ]; then
    mkdir -p runs
    CAMPAIGN=1 setsid nice -n 5 "train/$(basename "$0")" "$@" >> runs/train.log 2>&1 &
    echo $! > runs/pid
    echo "training, process group $!: tail -f runs/train.log; then $python train/export.py --model models/overworld --dit runs/distill"
    exit
fi

if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    run=("$python") first=(--batch 48) second=(--batch 32 --worlds 96 --walks data/walks)
else
    run=("$python" -m torch.distributed.run --nproc_per_node "$(nproc)") first=(--compile) second=()
    export OMP_NUM_THREADS=1
fi
export TOKENIZERS_PARALLELISM=false

record() { # name, what `dream data` is told
    [ -d "data/$1" ] && return
    cargo run --locked --no-default-features --features cli --bin dream -- data --out "data/$1.part" "${@:2}"
    mv "data/$1.part" "data/$1"
}
record train --seeds 0..320
record more --seeds 5000..5500
record many --seeds 10000..13000 --ticks 2 # worlds to begin in, for single chunks
record long --seeds 3000..3024 --ticks 1200
record wide --seeds 20000..20032 --size 176x96
record heldout --seeds 500000..500024 --held-out
record walks --seeds 600100..600112 --ticks 480 --held-out

common=(--data data/{train,more,many,long} --shapes data/wide --held-out data/heldout)
base=models/overworld
"${run[@]}" train/dit.py "${common[@]}" "${first[@]}" --model $base --init $base --out runs/dit --minutes "$minutes"
[ -d runs/teacher ] || cp -r $base runs/teacher
"$python" train/export.py --model runs/teacher --dit runs/dit
"${run[@]}" train/distill.py "${common[@]}" "${second[@]}" --model runs/teacher --out runs/distill --minutes "$distil"
