#!/usr/bin/env bash
# Produces docs/results: corpus, pretraining, task scores, report.
#
#   launch/evidence.sh corpus BOOKS LIBRARY GLUE   # prepare; count dev sentences
#   launch/evidence.sh pretrain                    # STEPS updates of `mini`
#   launch/evidence.sh law                         # twelve small runs, their fit
#   launch/evidence.sh lstm CORPUS                 # the LSTM, 7 M tokens of 58 novels
#   launch/evidence.sh records FOLDER              # copy OUT/FOLDER to docs/results
#   launch/evidence.sh search GLUE                 # rates, warm-ups; one seed
#   launch/evidence.sh tasks GLUE [FLAG...]        # pretrained and from scratch
#   launch/evidence.sh pairs NAME TSV...           # SNLI or MNLI, from samples
#   launch/evidence.sh tables                      # docs/results from its files
#   launch/evidence.sh report GLUE                 # zero-shot, slim run, page
#
# Each step resumes where it was stopped; the same command continues it. All
# results go to OUT. Run it in the background at low priority:
#
#   setsid nohup nice -n 10 launch/evidence.sh pretrain > pretrain.log 2>&1 &
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT=${OUT:-runs/evidence}
PYTHON=${PYTHON:-python}
MODEL=${MODEL:-models/mini} # what `search`, `tasks` and `pairs` start from
WORDS=${WORDS:-mini} # for `pairs`, of configs/own_task.py; an LSTM: lstm,mini
STEPS=${STEPS:-43917} # one epoch of 90 M tokens, 2,048 an update
SEEDS=${SEEDS:-5}
TASKS=${TASKS:-cola,stsb,rte,sst2}
ABLATIONS=${ABLATIONS:-full,scratch}
# glibc keeps freed memory: an update takes a tenth less processor time, and
# twice the memory (docs/performance.md).
export MALLOC_ARENA_MAX=1 \
  MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592

corpus() {
  "$PYTHON" -m gpt1_jax.prepare --input="$1" --input="$2" \
    --output="$OUT/corpus" --merges=8000 --validation_fraction=0 \
    --hold_out='*/Meredith_Feverel_*' --hold_out='*/Schreiner_Trooper_*' \
    --hold_out='*/Ben-Hecht_1001-*' --hold_out='*/Algernon-Blackwood_The-Willows*' \
    --hold_out='*/Cholmondeley_A-Devotee-*' --hold_out='*/Yeats_John-Sherman-*' \
    --hold_out='*/Arthur-Machen_The-Terror*'
  "$PYTHON" -m gpt1_jax.prepare --output="$OUT/corpus" --check_overlap="$3"
}

pretrain() {
  # A single epoch cannot overfit: no dropout. Small batches: more updates.
  "$PYTHON" -m gpt1_jax.pretrain --config=configs/pretrain.py:mini \
    --workdir="$OUT/mini" --config.data.path="$OUT/corpus" \
    --config.train.num_epochs=0 --config.train.num_steps="$STEPS" \
    --config.data.batch_size=8 --config.optim.warmup=300.0 \
    --config.model.embd_pdrop=0.0 --config.model.attn_pdrop=0.0 \
    --config.model.resid_pdrop=0.0 --config.train.keep=60 \
    --config.train.checkpoint_every=100 --config.train.eval_every=2000 "$@"
}

law() {
  local width layers heads steps dtype
  for steps in 732 1465 2930 5860; do # 1.5, 3, 6 and 12 M tokens
    # As the files in docs/results/law; float32 is faster without AMX.
    dtype=bfloat16
    ((steps < 5860)) || dtype=float32
    for shape in 32,2,1 64,2,2 128,4,4; do
      IFS=, read -r width layers heads <<< "$shape"
      "$PYTHON" -m gpt1_jax.pretrain --config=configs/pretrain.py:mini \
        --workdir="$OUT/law/$width-$steps" --config.data.path="$OUT/corpus" \
        --config.train.num_epochs=0 --config.train.num_steps="$steps" \
        --config.train.eval_every="$steps" --config.train.keep=1 \
        --config.model.dtype="$dtype" \
        --config.model.n_embd="$width" --config.model.n_layer="$layers" \
        --config.model.n_head="$heads" --config.model.unroll="$layers" \
        --config.model.embd_pdrop=0.0 --config.model.attn_pdrop=0.0 \
        --config.model.resid_pdrop=0.0 --config.data.batch_size=8 \
        --config.optim.warmup=300.0 --config.optim.peak_lr=1e-3
    done
  done
  "$PYTHON" -m gpt1_jax.report --runs="$OUT/law,models/mini" \
    --output="$OUT/law_report"
}

# Text, batches and updates of docs/results/record. 512 units have 0.29 times the
# parameters of the decoder's layers, as the paper's 2,048 do.
lstm() {
  "$PYTHON" -m gpt1_jax.pretrain --config=configs/pretrain.py:lstm,mini \
    --workdir="$OUT/lstm" --config.data.path="$1" --config.model.units=512 \
    --config.train.num_epochs=0 --config.train.num_steps=3400 \
    --config.train.eval_every=3400 --config.train.checkpoint_every=400 \
    --config.data.batch_size=8 --config.optim.warmup=300.0 \
    --config.optim.peak_lr=1e-3 --config.model.embd_pdrop=0.0 \
    --config.model.output_pdrop=0.0
}

# Copies the files of a folder's runs that `report` reads, without weights.
records() {
  (cd "$OUT" && find "$1" -path '*checkpoints*' -prune -o \
    \( -name config.json -o -name scores.json -o -name metrics.jsonl \) -print |
    tar -cf - -T -) | tar -xf - -C docs/results
}

# sweep OUTPUT TASKS ABLATIONS SEEDS GLUE [FLAG...]
sweep() {
  "$PYTHON" launch/sweep.py --output="$1" --init_from="$MODEL" \
    --tasks="$2" --ablations="$3" --seeds="$4" --data_path="$5" \
    --config=configs/finetune.py:mini "${@:6}"
}

search() {
  local rate warmup
  for rate in 2.5e-4 5e-4 1e-3; do
    for warmup in 0.002 0.1; do
      sweep "$OUT/search/$rate-$warmup" cola full,scratch 1 "$1" \
        --config.optim.peak_lr="$rate" --config.optim.warmup="$warmup"
    done
  done
}

# Fine-tunes on files of pairs: label, premise, hypothesis, separated by tabs. A
# fifth of the pairs is for dev, chosen by a hash.
pairs() {
  local name=$1 start
  mkdir -p "$OUT/pairs/$name"
  "$PYTHON" - "$OUT/pairs/$name" "${@:2}" << 'END'
import hashlib, json, pathlib, sys

rows = {'train': [], 'dev': []}
for file in sys.argv[2:]:
  for line in pathlib.Path(file).read_text(encoding='utf-8').splitlines():
    label, texts = line.split('\t', 1)
    number = int(hashlib.sha256(texts.encode()).hexdigest(), 16)
    premise, hypothesis = texts.split('\t')
    row = {'text': premise, 'text_pair': hypothesis, 'label': label}
    rows['train' if number % 5 else 'dev'].append(json.dumps(row) + '\n')
for split, lines in rows.items():
  pathlib.Path(sys.argv[1], f'{split}.jsonl').write_text(''.join(lines))
END
  for start in init_from= like=; do
    local words=$WORDS folder=$name
    [[ $start == like= ]] && words=$WORDS,scratch folder=${name}_scratch
    "$PYTHON" -m gpt1_jax.finetune --config="configs/own_task.py:$words" \
      --config.task.name="$name" --config.task.kind=entailment \
      --config.task.labels="('entailment','neutral','contradiction')" \
      --config.data.path="$OUT/pairs/$name" --config.$start"$MODEL" \
      --config.train.num_epochs=6 \
      --config.train.seeds="$SEEDS" --workdir="$OUT/tasks/$folder"
  done
}

# Writes docs/results/evidence.{md,html} and tasks.svg from the files of the runs
# there.
tables() {
  "$PYTHON" -m gpt1_jax.report --output="$OUT/tables" \
    --runs=models/mini,docs/results/record,docs/results/lstm,docs/results/tasks
  cp "$OUT/tables/results.md" docs/results/evidence.md
  cp "$OUT/tables/report.html" docs/results/evidence.html
  cp "$OUT/tables/tasks.svg" docs/results/tasks.svg
}

report() {
  "$PYTHON" -m gpt1_jax.evaluate --workdir="$OUT/mini" --suite=zero_shot \
    --tasks_path="$1" --tasks=cola,sst2 --series
  [[ -d $OUT/slim ]] ||
    "$PYTHON" -m gpt1_jax.convert --input="$OUT/mini" --output="$OUT/slim" --slim
  "$PYTHON" -m gpt1_jax.report --runs="$OUT/mini,$OUT/tasks" \
    --output="$OUT/report"
}

case ${1:-} in
  corpus) corpus "${2:?BOOKS is missing}" "${3:?LIBRARY is missing}" "${4:?GLUE is missing}" ;;
  pretrain) pretrain "${@:2}" ;;
  law) law ;;
  lstm) lstm "${2:?CORPUS is missing}" ;;
  records) records "${2:?FOLDER is missing}" ;;
  search) search "${2:?GLUE is missing}" ;;
  tasks) sweep "$OUT/tasks" "$TASKS" "$ABLATIONS" "$SEEDS" "${2:?GLUE is missing}" "${@:3}" ;;
  pairs) pairs "${2:?NAME is missing}" "${@:3}" ;;
  tables) tables ;;
  report) report "${2:?GLUE is missing}" ;;
  *)
    sed -n '2,18s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
