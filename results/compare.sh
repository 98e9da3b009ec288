#!/usr/bin/env bash
# One run of the comparison: results/compare.sh METHOD TASK SEED [ARGUMENTS OF awac fit]
#
#   awac data import pen2_sparse.npy --task pen --to awac/pen/human-v0                     # rlkit's human demonstrations
#   awac data import door-v0_demos.pickle --task door --to awac/door/human-v0              # DAPG's
#   awac data import relocate_noisy.npz --task relocate --to awac/relocate/noisy-v0
#   results/compare.sh plus door 121
#   python results/keep.py runs/methods/* --to methods                                     # then the figures and tables
#
# METHOD: plus, awac, iql, rlpd, bc; default, paper, rlkit. TASK: pen, door, relocate. Each seed clones its own policy; all
# methods of a task and seed share the clone's 500 episodes (default, paper and rlkit their own, which is not normalised).
set -euo pipefail
cd "$(dirname "$0")/.."
method=$1 task=$2 seed=$3
shift 3
name=human-v0 cloned=cloned-normalized-v0 options=()
[ "$task" = relocate ] && name=noisy-v0 && options+=(--data.num_demonstrations=10)
case $method in
    plus) options+=(--preset plus) ;;
    awac) options+=(--preset comparison) ;;
    iql) options+=(--algorithm iql --preset comparison) ;;
    rlpd) options+=(--algorithm rlpd --preset comparison --trainer.max_epochs=100) ;;
    bc) options+=(--algorithm bc --preset comparison --trainer.max_epochs=5) ;;
    default | paper | rlkit) options+=(--preset "$method") cloned=cloned-v0 ;;
    *) echo "unknown method '$method'" >&2 && exit 2 ;;
esac
datasets=awac/$task/$name,awac/$task/$cloned
[ "$method" = bc ] && datasets=awac/$task/$name
shared=${MINARI_DATASETS_PATH:-$HOME/.minari/datasets}
export MINARI_DATASETS_PATH=$PWD/runs/datasets/$task-$seed-$cloned OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$MINARI_DATASETS_PATH/awac/$task"
cp -rn "$shared/awac/$task/$name" "$MINARI_DATASETS_PATH/awac/$task/"
exec awac fit --task "$task" "${options[@]}" "--data.datasets=[$datasets]" --data.clone_seed="$seed" \
    --seed_everything="$seed" --run_dir="runs/methods/$method-$task-$seed" "$@"
