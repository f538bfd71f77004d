#!/usr/bin/env bash
# Goes on training models/overworld's DiT: records what data is missing, resumes runs/dit where it stopped, or begins it from the
# committed weights with a fresh optimizer.
#
#     train/campaign.sh 120        # minutes of the whole schedule; the same number resumes
#     kill -STOP -- -$(cat runs/dit/pid)   and -CONT: a rest, for a benchmark
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:?how many minutes?}
cores=$(nproc) # before OMP_NUM_THREADS, which it would obey
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

record() { # name, what `dream data` is told
    [ -d "data/$1" ] && return
    cargo run --locked --no-default-features --features cli --bin dream -- data --out "data/$1.part" "${@:2}"
    mv "data/$1.part" "data/$1"
}
record train --seeds 0..320
record more --seeds 5000..5500
record starts --seeds 1000..2600 --ticks 16 # many worlds to begin in, for single chunks
record many --seeds 10000..12500 --ticks 8
record long --seeds 3000..3024 --ticks 1200
record wide --seeds 20000..20032 --size 176x96
record heldout --seeds 500000..500024 --held-out

mkdir -p runs/dit
setsid nice -n 5 "${PYTHON:-python3}" -m torch.distributed.run --nproc_per_node "$cores" train/dit.py --compile \
    --model models/overworld --init models/overworld --data data/{train,more,starts,many,long} --shapes data/wide \
    --held-out data/heldout --out runs/dit --minutes "$minutes" >> runs/dit/train.log 2>&1 &
echo $! > runs/dit/pid
echo "training, process group $!: tail -f runs/dit/train.log; then python train/export.py --model models/overworld --dit runs/dit"
