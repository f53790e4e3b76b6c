#!/usr/bin/env bash
# The small comparison, whole: four kinds, four sizes, two seeds of the largest; then the scores, the scaling laws and
# the page. What is there already is not made again, so it may be stopped and started anew.
#
#   recipes/paper/replicate.sh DATA OUT          # DATA: the files named in recipes/mini/README.md
#
# Variables: SEEDS "1 2" · SIZES "500k 1m 2m 3m", the last of which is scored (also 12m) · KINDS · STEPS 400 · DOCUMENTS 32
# a step (1,300 steps are a pass) · LIMIT 200 texts a score · TRAIN, options of `sonarllm train` · SONAR, the space ·
# SONARLLM, the command · JUDGE_ENDPOINT and JUDGE_MODEL, for grades by a language model (key in OPENAI_API_KEY)
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2; }
data=$1 out=$2 here=$(dirname "$0")
read -ra sizes <<< "${SIZES:-500k 1m 2m 3m}"
read -ra seeds <<< "${SEEDS:-1 2}"
read -ra kinds <<< "${KINDS:-sonar-llm token-llm mse-lcm diffusion-lcm}"
read -ra train <<< "${TRAIN:-}"
read -ra sonarllm <<< "${SONARLLM:-sonarllm}"
largest=${sizes[-1]}
mkdir -p "$out/runs" "$out/results"

# Every run reads the same sentences: what the first has embedded, the others take.
shared=$out/embeddings.safetensors
learn() {  # kind size seed
  local run=$out/runs/$1-$2-seed$3
  [ -e "$run/model/config.json" ] && return
  mkdir -p "$run"
  [ -e "$shared" ] && ln -f "$shared" "$run/embeddings.safetensors"
  "${sonarllm[@]}" train "$here/small-$2.toml" --set kind="$1" --set run.seed="$3" --set data.root="$data" \
    --set sonar="${SONAR:-mini-sonar}" \
    --set optim.steps="${STEPS:-400}" --set optim.documents="${DOCUMENTS:-32}" \
    --set run.valid_every=100 "${train[@]}" --resume -o "$run"
  [ -e "$shared" ] || { [ -e "$run/embeddings.safetensors" ] && ln "$run/embeddings.safetensors" "$shared"; } || true
}

score() {  # task kind seed options…
  local result=$out/results/$1-$2-$largest-seed$3.json
  [ -e "$result" ] || "${sonarllm[@]}" evaluate "$1" -m "$out/runs/$2-$largest-seed$3/model" \
    --data "$data/debian-en.valid.jsonl.xz" --limit "${LIMIT:-200}" --json -o "$result" "${@:4}"
}

for size in "${sizes[@]}"; do
  for kind in "${kinds[@]}"; do
    for seed in "${seeds[@]}"; do
      [ "$size" = "$largest" ] || [ "$seed" = "${seeds[0]}" ] || continue
      learn "$kind" "$size" "$seed"
    done
  done
done
for kind in "${kinds[@]}"; do
  for seed in "${seeds[@]}"; do
    score nextsentence "$kind" "$seed"
    score nlg "$kind" "$seed"
    score summarize "$kind" "$seed" --seen "$data/debian-en.train.jsonl.xz"
    [ -z "${JUDGE_ENDPOINT:-}" ] ||
      score judge "$kind" "$seed" --endpoint "$JUDGE_ENDPOINT" --judge-model "${JUDGE_MODEL:-gpt-4o}"
  done
done
if [ ${#sizes[@]} -ge 3 ]; then
  "${sonarllm[@]}" evaluate scaling "$out"/runs/*-seed"${seeds[0]}" --plot "$out/scaling.svg" \
    --json -o "$out/results/scaling.json" || echo "replicate.sh: no scaling law; the report goes without" >&2
fi
"${sonarllm[@]}" evaluate report "$out" --title "Concept models and a token model, small"
