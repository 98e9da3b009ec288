#!/usr/bin/env bash
# The runs behind the README's tables: results/run.sh NAME SEED [ARGUMENTS OF awac fit]
#
#   results/run.sh pen-quick 11 --config conf/task/pen.yaml
#   results/run.sh relocate-10 11 --config conf/task/relocate.yaml --data.num_demonstrations=10
#   results/run.sh relocate-noisy-10 11 --config conf/task/relocate.yaml --data.num_demonstrations=10 \
#       '--data.datasets=[awac/relocate/noisy-v0, awac/relocate/cloned-v0]'
#   results/run.sh door-human 11 --config conf/task/door.yaml '--data.datasets=[awac/door/human-v0, awac/door/cloned-v0]'
#
# Each seed clones its own policy, too: it has its own folder of datasets. The run's folder is runs/results/NAME-seedN.
set -euo pipefail
shared=${MINARI_DATASETS_PATH:-$HOME/.minari/datasets}
[[ $shared = /* ]] || shared=$PWD/$shared
cd "$(dirname "$0")/.."
name=$1 seed=$2
shift 2
export MINARI_DATASETS_PATH=$PWD/runs/datasets/$name-seed$seed OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$MINARI_DATASETS_PATH"
for dataset in "$shared"/awac/*/{noisy,human}-v0; do  # a dataset that was imported beforehand
    [ -d "$dataset" ] || continue
    mkdir -p "$MINARI_DATASETS_PATH/awac/$(basename "$(dirname "$dataset")")"
    copy=$MINARI_DATASETS_PATH/awac/$(basename "$(dirname "$dataset")")/$(basename "$dataset")
    [ -d "$copy" ] || cp -r "$dataset" "$copy"
done
exec awac fit --config conf/base.yaml --config conf/preset/quick.yaml "$@" --data.clone_seed="$seed" \
    --seed_everything="$seed" --run_dir="runs/results/$name-seed$seed"
