#!/usr/bin/env bash
# Presets of train_rgb_depth.py, by number or from a menu.
#
#   bash run_rgb_depth_examples.sh                  menu
#   bash run_rgb_depth_examples.sh 6                teacher for distillation
#   bash run_rgb_depth_examples.sh 6 --use_wandb    whatever follows is passed on, and wins over the preset
#   bash run_rgb_depth_examples.sh 5 NAME EPOCH     resume an experiment from an epoch
set -euo pipefail

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
PYTHON="${PYTHON:-python}"

usage() {
    cat <<'TEXT'
usage: bash run_rgb_depth_examples.sh [NUMBER] [more flags of train_rgb_depth.py]
  1  basic                 base 64, AdamW, 200 epochs            rgb_depth_basic_v1
  2  W&B                   as 1, logged to Weights & Biases      rgb_depth_wandb_v1
  3  light                 base 32, batch 128, lr 2e-4           rgb_depth_lightweight_v1
  4  high capacity         base 64, batch 32, lr 5e-5            rgb_depth_highcap_v1
  5  resume                NAME EPOCH (asked when not given)
  6  teacher for KD        base 64, AdamW, cosine, 200 epochs    rgb_teacher_for_kd
  7  loss weights          L1 1.0, smoothness 0.2                rgb_depth_smooth_v1
  8  quick test            batch 16, 2 epochs, 128 pixels        rgb_depth_test
  0  exit
TEXT
}

run() {
    exec "$PYTHON" "$HERE/train_rgb_depth.py" --dataset batvisionv2 "$@"
}

ask() {  # ask VARIABLE QUESTION
    if [[ ! -t 0 ]]; then
        echo "preset 5 needs a name and an epoch: bash run_rgb_depth_examples.sh 5 NAME EPOCH" >&2
        exit 1
    fi
    read -r -p "$2: " "$1"
}

resume() {
    local name="${1:-}" epoch="${2:-}"
    [[ $# -gt 0 ]] && shift
    [[ $# -gt 0 ]] && shift
    [[ -n "$name" ]] || ask name "experiment name"
    [[ -n "$epoch" ]] || ask epoch "epoch"
    run --experiment_name "$name" --checkpoints "$epoch" "$@"
}

if [[ $# -gt 0 ]]; then
    choice="$1"
    shift
elif [[ -t 0 ]]; then
    usage
    read -r -p "number: " choice
else
    usage >&2
    exit 1
fi

case "$choice" in
    1) run --batch_size 64 --base_channels 64 --learning_rate 1e-4 --optimizer AdamW --nb_epochs 200 \
           --save_frequency 2 --experiment_name rgb_depth_basic_v1 "$@" ;;
    2) run --batch_size 64 --learning_rate 1e-4 --use_wandb --wandb_project batvision-rgb-depth \
           --experiment_name rgb_depth_wandb_v1 "$@" ;;
    3) run --batch_size 128 --base_channels 32 --learning_rate 2e-4 --optimizer AdamW \
           --experiment_name rgb_depth_lightweight_v1 "$@" ;;
    4) run --batch_size 32 --base_channels 64 --learning_rate 5e-5 --optimizer AdamW --weight_decay 0.01 \
           --scheduler cosine --experiment_name rgb_depth_highcap_v1 "$@" ;;
    5) resume "$@" ;;
    6) run --batch_size 64 --base_channels 64 --learning_rate 1e-4 --optimizer AdamW --scheduler cosine \
           --nb_epochs 200 --save_frequency 5 --experiment_name rgb_teacher_for_kd "$@" ;;
    7) run --batch_size 64 --learning_rate 1e-4 --lambda_l1 1.0 --lambda_smooth 0.2 \
           --experiment_name rgb_depth_smooth_v1 "$@" ;;
    8) run --batch_size 16 --learning_rate 1e-4 --nb_epochs 2 --save_frequency 1 --image_size 128 128 \
           --experiment_name rgb_depth_test "$@" ;;
    0) exit 0 ;;
    *) usage >&2
       exit 1 ;;
esac
