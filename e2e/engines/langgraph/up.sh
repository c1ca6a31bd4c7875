#!/usr/bin/env bash
# Start a real LangGraph Agent Server (the in-memory development server that LangSmith
# Deployment's API is published with) on the fixture graphs; prints its address as JSON.
#
#   langgraph/up.sh [PORT]     default 8123
#
# N_JOBS           concurrent runs of the server (default 10; without it the server runs ONE at a time)
# FIXTURE_API_KEY  when set, every request must carry it as the header x-api-key
# Each run starts without earlier threads, unless KEEP_STATE=1: then the state of the last
# run on this port is taken up again, as after a restart of the server.
# Needs: bash, curl, python3 (3.11 or newer).
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$HERE/../common.sh"

VERSION=0.16.7
PORT="${1:-8123}"
VENV="$CACHE/langgraph-$VERSION"
RUN="$CACHE/run/e2e-langgraph-$PORT"
URL="http://127.0.0.1:$PORT"
need curl "$PYTHON" flock setsid
mkdir -p "$RUN"

take_lock "langgraph-$VERSION"
stop_pid "$RUN/pid"
port_free "$PORT"
if [ ! -f "$VENV/installed" ]; then
  ensure_uv
  say "installing langgraph-api $VERSION"
  "$UV" venv --quiet --python "$PYTHON" --clear "$VENV" >&2
  "$UV" pip install --quiet --python "$VENV/bin/python" --constraint "$HERE/constraints.txt" \
    "langgraph-cli[inmem]" >&2
  touch "$VENV/installed"
fi
flock -u 9

if [ "${KEEP_STATE:-0}" = 1 ] && [ -d "$RUN/app" ]; then
  cp "$HERE"/app/*.py "$HERE"/app/langgraph.json "$RUN/app/"
else
  rm -rf "$RUN/app"
  cp -r "$HERE/app" "$RUN/app"
  : >"$RUN/trace"
fi
export LANGSMITH_TRACING=false LANGCHAIN_TRACING_V2=false
export LANGGRAPH_CLI_NO_ANALYTICS=1 LANGGRAPH_NO_VERSION_CHECK=true
export ENGINE_FIXTURE_TRACE="${ENGINE_FIXTURE_TRACE:-$RUN/trace}"
cd "$RUN/app"
launch "$RUN/pid" "$RUN/log" "$VENV/bin/langgraph" dev --no-browser --no-reload \
  --host 127.0.0.1 --port "$PORT" --n-jobs-per-worker "${N_JOBS:-10}" --server-log-level warning
wait_ok "$URL/ok" "$RUN/pid" "$RUN/log" 120

"$PYTHON" - "$URL" "$(cat "$RUN/pid")" "$VERSION" "${FIXTURE_API_KEY:-}" "$ENGINE_FIXTURE_TRACE" <<'PY'
import json, sys, urllib.request
url, pid, version, key, trace = sys.argv[1:]
request = urllib.request.Request(url + "/assistants/search", data=b'{"limit":100}', method="POST",
                                 headers={"content-type": "application/json", "x-api-key": key})
with urllib.request.urlopen(request, timeout=30) as answer:
    found = json.load(answer)
print(json.dumps({
    "engine": "langgraph", "version": version, "base_url": url, "api_key": key or None,
    "auth_header": "x-api-key", "pid": int(pid), "trace_file": trace,
    "workflows": {a["graph_id"]: {"id": a["assistant_id"], "assistant_id": a["graph_id"]} for a in found},
}, indent=1))
PY
