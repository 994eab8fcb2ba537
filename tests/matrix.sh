#!/usr/bin/env bash
# The recorder and model tests with the oldest and the newest releases that pyproject.toml admits.
# Usage: tests/matrix.sh [DIR] [name ...]      names: oldest oldest-crewai newest; default all
#
# CrewAI pins OpenTelemetry far above our own lower bound, so the oldest of the others are a row of
# their own. Needs uv (part of the dev extra). Tests of local models need torch and stay out.
set -u
here=$(cd "$(dirname "$0")/.." && pwd)
dir=$(realpath -m "${1:-$here/.matrix}")
[ $# -gt 0 ] && shift
names=("$@")
[ ${#names[@]} -eq 0 ] && names=(oldest oldest-crewai newest)
python=${PYTHON:-python3.11}
uv=$(PATH="$here/.venv/bin:$PATH" command -v uv) || { echo "uv is needed: pip install uv"; exit 2; }
mkdir -p "$dir"

shared=(test_recorder test_hooks test_content test_metrics test_export test_instrument
  test_one_llm_span)
langchain=(test_langchain_recorder test_langchain_nesting test_langchain_graphs
  test_langchain_broken_off test_langchain_coverage test_langchain_model test_litellm_recorder
  test_litellm_retries test_litellm_real_http test_litellm_bad_input)
crewai=(test_crewai_recorder test_crewai_coverage test_crewai_instrument test_crewai_old_way
  test_crewai_old_way_trees test_crewai_old_way_content test_crewai_old_way_program
  test_crewai_llm_kinds test_crewai_swap test_crewai_slm
  test_litellm_crewai test_litellm_nesting test_conformance test_spending test_local_facts
  test_traps test_tool_timeouts)

environment() { # name resolution extra ...
  local name=$1 resolution=$2 extras=()
  shift 2
  for extra in "$@"; do extras+=(--extra "$extra"); done
  # What the demo extra says of these two, without the rest of it.
  grep -oE '"lang(chain|graph)>=[^"]+"' "$here/pyproject.toml" | tr -d '"' >"$dir/$name.in"
  "$uv" pip compile -q --no-header --no-annotate --python "$python" --resolution "$resolution" \
    "$here/pyproject.toml" "$dir/$name.in" "${extras[@]}" -o "$dir/$name.txt" || return 1
  "$uv" venv -q --clear --python "$python" "$dir/$name" || return 1
  "$uv" pip install -q --python "$dir/$name" -r "$dir/$name.txt" || return 1
  # The tools that run the tests are not what is tested: any release that fits.
  "$uv" pip install -q --python "$dir/$name" -r "$dir/$name.txt" \
    'pytest>=8' 'pytest-asyncio>=1.0' 'hypothesis>=6' 'langchain-openai>=1.0' pyyaml \
    'opentelemetry-instrumentation-httpx>=0.50b0' || return 1
}

failed=0
for name in "${names[@]}"; do
  files=("${shared[@]}" "${langchain[@]}")
  case $name in
    oldest) environment "$name" lowest-direct otlp langchain litellm ;;
    oldest-crewai) environment "$name" lowest-direct otlp langchain litellm crewai ;;
    newest) environment "$name" highest otlp langchain litellm crewai ;;
    *) echo "no such row: $name"; exit 2 ;;
  esac || { echo "$name: could not be installed"; failed=1; continue; }
  [ "$name" = oldest ] || files+=("${crewai[@]}")
  echo "== $name: $(grep -E '^(crewai|langchain|langchain-core|langgraph|litellm|openai|opentelemetry-sdk)==' \
    "$dir/$name.txt" | tr '\n' ' ')"
  paths=("${files[@]/#/tests/}")
  paths=("${paths[@]/%/.py}")
  (cd "$here" && PYTHONPATH=src "$dir/$name/bin/python" -m pytest -q -p no:cacheprovider \
    -W ignore "${paths[@]}" ${TEST_ARGS:-}) || failed=1
done
exit $failed
