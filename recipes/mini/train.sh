#!/usr/bin/env bash
# The embedded model from a prepared corpus, within so many minutes, on whatever device is there:
#   recipes/mini/train.sh corpus.safetensors.xz OUT 15
# OUT/mini-sonar and OUT/mini are the model; run again, it goes on. A stop leaves the best so far of each stage.
set -euo pipefail
[ $# = 3 ] || { sed -n '2,4p' "$0" >&2; exit 2; }
data=$(realpath "$1"); out=$2; minutes=$3
recipes=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
mkdir -p "$out"

# A GPU carries a wider network, larger steps and more documents in the same time; what ships is at most 36 MiB.
wide=() large=() few=(--set data.limit=$(( ${minutes%.*} * 500 + 1000 )))
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  wide=(--set model.width=384 --set model.heads=6 --set model.ffn=1536 --set model.decoder_layers=5
    --set optim.batch_tokens=32768) large=(--set optim.batch_tokens=32768) few=()
fi
share() { "$python" -c "print(max(0.05, round($minutes * $1, 3)))"; }
newest() { # a run's end, else the best that its validation saw
  for part in model best; do [ -d "$1/$part" ] && { echo "$1/$part"; return; }; done; return 1
}
keep() { # RUN NAME: put the run's model where the next stage and the user find it, under the name of its space
  found=$(newest "$1") || return 0
  rm -rf "$out/.new" && cp -r "$found" "$out/.new" && rm -rf "${out:?}/$2" && mv "$out/.new" "$out/$2"
}
run() { # NAME SHARE RECIPE [OPTION…]
  name=$1 part=$(share "$2") recipe=$3; shift 3
  [ -d "$out/runs/$name/model" ] && return
  resume=(); [ -f "$out/runs/$name/settings.toml" ] && resume=(--resume)
  "$python" -m sonarllm_cli train "$recipes/$recipe" --minutes "$part" -o "$out/runs/$name" "${resume[@]}" \
    --set data.prepared="$data" "$@"
}
trap 'keep "$out/runs/space" mini-sonar; keep "$out/runs/writer" mini; both' EXIT
both() { # the decoder that learned from the concept model's predictions, and the concept model that goes on through it
  newest "$out/runs/writer2" >/dev/null || return 0
  keep "$out/runs/decoder" mini-sonar; keep "$out/runs/writer2" mini
}

run space 0.5 sonar.toml "${wide[@]}"
keep "$out/runs/space" mini-sonar
run writer 0.16 sonar-llm.toml --set sonar="$out/mini-sonar" "${few[@]}"
keep "$out/runs/writer" mini
run decoder 0.18 decoder.toml --set run.init="$out/mini-sonar" --set run.writer="$out/mini" "${few[@]}" "${large[@]}"
mkdir -p "$out/next" && keep "$out/runs/decoder" next/mini-sonar
run writer2 0.1 sonar-llm.toml --set sonar="$out/next/mini-sonar" --set run.init="$out/mini" "${few[@]}"
both
"$python" -m sonarllm_cli evaluate nextsentence -m "$out/mini" --data "$recipes/../../examples/documents.jsonl" \
  -o "$out/nextsentence.json" --json
echo "$out/mini"
