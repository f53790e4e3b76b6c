#!/usr/bin/env bash
# What a GPU shows of this repository within so many minutes: its tests (tests/gpu), how fast each arrow of the chain
# and a training step are at the published size in each dtype, and the share of the peak that a step of the 600m model
# has. A part that fails or runs out of time does not keep the others from running.
#
#   recipes/gpu/check.sh OUT MINUTES      # → OUT/report.md, OUT/report.json; what each part said, in OUT/PART.*
#
# Variables: DEVICE cuda · DTYPES "float32 tf32 bfloat16", of which the last is tried first where each is a part of its
# own · SIZE published, or tiny, to try every line · PARTS, to run some: tests embed decode train step generate ·
# PYTHON python. On a processor: DEVICE=cpu SIZE=tiny DTYPES="float32 bfloat16".
set -uo pipefail
[ $# -eq 2 ] || { sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && out=$(cd "$1" && pwd) || exit 2
total=$(awk -v minutes="$2" 'BEGIN { print int(60 * minutes) }')
deadline=$((total - 5))  # the report is written in what remains
device=${DEVICE:-cuda} size=${SIZE:-published} python=${PYTHON:-python}
parts=" ${PARTS:-tests embed decode train step generate} "
read -ra dtypes <<< "${DTYPES:-float32 tf32 bfloat16}"
cd "$here/../.." || exit 2
rm -f "$out"/parts.tsv "$out"/report.*

# Runs a command for at most a share (in %) of all minutes, and no longer than there are minutes: PART SHARE COMMAND…
part() {
  local name=$1 share=$2 began=$SECONDS code left
  shift 2
  [[ $parts == *" ${name%%-*} "* ]] || return 0
  left=$((deadline - SECONDS - 2))
  local limit=$((share * total / 100 < left ? share * total / 100 : left))
  if [ "$limit" -lt 3 ]; then
    code=unreached
  else
    timeout -k 2 "$limit" "$@" > "$out/$name.out" 2> "$out/$name.log"
    code=$?
  fi
  printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$code" $((SECONDS - began)) "$limit" "$*" >> "$out/parts.tsv"
  echo "$name: $code, $((SECONDS - began)) s" >&2
}

sonarllm=("$python" -m sonarllm_cli)
bench=(--device "$device" --json)
if [ "$size" = published ]; then
  bench+=(--size published)
  embed=(--texts 256) decode=(--texts 64) generate=(--sentences 32) train=(--documents 16 --micro-batch 16)
  documents=256 model=()
  step=(--set optim.steps=12 --set optim.documents=64 --set optim.batch_tokens=16384 --set run.log_every=3)
else
  embed=(--texts 3 --rounds 1) decode=(--texts 2 --rounds 1 --max-tokens 6)
  generate=(--sentences 2 --read 4 --rounds 1 --max-tokens 6)
  train=(--documents 1 --micro-batch 1 --decoder-layers 1 --vocab-size 2000 --steps 1)
  documents=8 model=(--set model.width=32 --set model.ffn=64 --set model.layers=1 --set model.heads=2
    --set model.head_size=16)
  step=(--set optim.steps=4 --set optim.documents=2 --set optim.batch_tokens=512 --set run.log_every=2)
fi
list=$(IFS=,; echo "${dtypes[*]}")

export SONARLLM_TEST_DEVICE=$device PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}  # this repository, installed or not
train() {  # DTYPE
  part "train-$1" 8 "${sonarllm[@]}" bench train --device "$device" --json --dtype "$1" "${train[@]}"
}
generate() {
  part "generate-$1" 10 "${sonarllm[@]}" bench generate "${bench[@]}" --dtypes "$1" "${generate[@]}"
}

part tests 40 "$python" -m pytest tests/gpu -p no:cacheprovider
part embed 15 "${sonarllm[@]}" bench embed "${bench[@]}" --dtypes "$list" "${embed[@]}"
part decode 15 "${sonarllm[@]}" bench decode "${bench[@]}" --dtypes "$list" "${decode[@]}"
last=${dtypes[-1]}
train "$last"
# A space and documents of random weights and words, made, embedded and learned from as a user would.
part step-space 10 "$python" "$here/synthetic.py" "$out/step" --size "$size" --documents "$documents" --device "$device"
part step-store 10 "${sonarllm[@]}" embed --store "$out/step/store" -m "$out/step/space" --device "$device" \
  "$out/step/documents.jsonl"
part step 25 "${sonarllm[@]}" train recipes/600m.toml -o "$out/step/run" --set sonar="$out/step/space" \
  --set data.store="$out/step/store" --set data.documents=[] --set data.valid_documents=[] \
  --set run.device="$device" --set run.save_minutes=1000 "${step[@]}" "${model[@]}"
generate "$last"
for dtype in "${dtypes[@]:0:${#dtypes[@]}-1}"; do
  train "$dtype"
  generate "$dtype"
done
"$python" "$here/report.py" "$out"
