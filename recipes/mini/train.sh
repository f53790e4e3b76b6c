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
    --set optim.batch_tokens=32768) large=(--set optim.batch_tokens=32768 --set optim.documents=96) few=()
fi
share() { "$python" -c "print(max(0.05, round($minutes * $1, 3)))"; }
place() { # FOLDER NAME: a model where the next stage and the user find it, under the name of its space
  rm -rf "$out/.new" && cp -r "$1" "$out/.new" && rm -rf "${out:?}/$2" && mv "$out/.new" "$out/$2"
}
keep() { # RUN NAME: the model of a run's end, else the best that its validation saw
  for part in model best; do [ -d "$1/$part" ] && { place "$1/$part" "$2"; return; }; done
  return 0
}
both() { # the space and the concept model that learned together
  for parts in "model writer" "best best-writer"; do
    read -r space writer <<< "$parts"
    if [ -d "$out/runs/both/$space" ] && [ -d "$out/runs/both/$writer" ]; then
      place "$out/runs/both/$space" mini-sonar; place "$out/runs/both/$writer" mini; return
    fi
  done
}
run() { # NAME SHARE RECIPE LAST [OPTION…]: unless the run has left LAST, which it does at its end
  name=$1 part=$(share "$2") recipe=$3 last=$4; shift 4
  [ -d "$out/runs/$name/$last" ] && return
  resume=(); [ -f "$out/runs/$name/settings.toml" ] && resume=(--resume)
  "$python" -m sonarllm_cli train "$recipes/$recipe" --minutes "$part" -o "$out/runs/$name" "${resume[@]}" \
    --set data.prepared="$data" "$@"
}
trap 'keep "$out/runs/space" mini-sonar; keep "$out/runs/writer" mini; both' EXIT

run space 0.55 sonar.toml model "${wide[@]}"
keep "$out/runs/space" mini-sonar
run writer 0.12 sonar-llm.toml model --set sonar="$out/mini-sonar" "${few[@]}"
keep "$out/runs/writer" mini
run both 0.33 decoder.toml writer --set run.init="$out/mini-sonar" --set run.writer="$out/mini" "${few[@]}" "${large[@]}"
both
"$python" -m sonarllm_cli evaluate nextsentence -m "$out/mini" --data "$recipes/../../examples/documents.jsonl" \
  -o "$out/nextsentence.json" --json
echo "$out/mini"
