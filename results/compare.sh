#!/usr/bin/env bash
# One run of the comparison: results/compare.sh METHOD TASK SEED [ARGUMENTS OF awac fit]
#
#   awac data import pen2_sparse.npy --task pen --to awac/pen/human-v0                     # rlkit's human demonstrations
#   awac data import door-v0_demos.pickle --task door --to awac/door/human-v0              # DAPG's
#   awac data import relocate_noisy.npz --task relocate --to awac/relocate/noisy-v0
#   results/compare.sh plus door 121
#   python results/keep.py runs/methods/* --to methods                                     # then the figures and tables
#   python results/keep.py runs/replication/* --to replication
#
# METHOD: plus, awac, iql, rlpd, bc (runs/methods); default, paper, rlkit (runs/replication). TASK: pen, door, relocate. Each
# seed clones its own policy. plus, awac, iql and rlpd share the clone's 500 episodes; default and paper share others, of a
# clone whose observations are not normalised, and rlkit has its own, whose actions are not clipped.
set -euo pipefail
shared=${MINARI_DATASETS_PATH:-$HOME/.minari/datasets}
[[ $shared = /* ]] || shared=$PWD/$shared
cd "$(dirname "$0")/.."
method=$1 task=$2 seed=$3
shift 3
set=methods name=human-v0 cloned=cloned-normalized-v0 options=()
[ "$task" = relocate ] && name=noisy-v0 && options+=(--data.num_demonstrations=10)
case $method in
    plus) options+=(--preset plus) ;;
    awac) options+=(--preset comparison) ;;
    iql) options+=(--algorithm iql --preset comparison) ;;
    rlpd) options+=(--algorithm rlpd --preset comparison --trainer.max_epochs=100) ;;
    bc) options+=(--algorithm bc --preset comparison --trainer.max_epochs=5) ;;
    default | paper | rlkit) options+=(--preset "$method") set=replication cloned=cloned-v0 ;;
    *) echo "unknown method '$method'" >&2 && exit 2 ;;
esac
datasets=awac/$task/$name,awac/$task/$cloned
[ "$method" = bc ] && datasets=awac/$task/$name
export MINARI_DATASETS_PATH=$PWD/runs/datasets/$task-$seed-$cloned OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$MINARI_DATASETS_PATH/awac/$task"
[ -d "$MINARI_DATASETS_PATH/awac/$task/$name" ] || cp -r "$shared/awac/$task/$name" "$MINARI_DATASETS_PATH/awac/$task/"
exec awac fit --task "$task" "${options[@]}" "--data.datasets=[$datasets]" --data.clone_seed="$seed" \
    --seed_everything="$seed" --run_dir="runs/$set/$method-$task-$seed" "$@"
