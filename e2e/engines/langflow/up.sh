#!/usr/bin/env bash
# Start a real Langflow (backend only, SQLite) with the fixture flows; prints its address as JSON.
#
#   langflow/up.sh [PORT]      default 7860
#
# The first run installs langflow-base and prepares a data directory with a superuser, an API
# key and the flows. Later runs copy that directory and start.
# Any LANGFLOW_* variable of the caller reaches the engine, for instance
# LANGFLOW_BACKGROUND_MAX_CONCURRENCY=2 or LANGFLOW_WORKFLOW_EXECUTION_TIMEOUT=5.
# With KEEP_STATE=1 the data of the last run on this port is taken up again.
# Needs: bash, curl, python3 (3.11 or newer).
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$HERE/../common.sh"

VERSION=1.13.0
PORT="${1:-7860}"
VENV="$CACHE/langflow-$VERSION"
RUN="$CACHE/run/e2e-langflow-$PORT"
URL="http://127.0.0.1:$PORT"
need curl "$PYTHON" flock setsid
mkdir -p "$RUN"

start() { # DATA_DIR
  mkdir -p "$1/state"
  export LANGFLOW_CONFIG_DIR="$1" LANGFLOW_DATABASE_URL="sqlite:///$1/langflow.db"
  export LANGFLOW_AUTO_LOGIN=false LANGFLOW_SUPERUSER=admin LANGFLOW_SUPERUSER_PASSWORD=Fixture-Passw0rd
  export LANGFLOW_DO_NOT_TRACK=true DO_NOT_TRACK=true LANGFLOW_STORE=false
  export LANGFLOW_CREATE_STARTER_PROJECTS=false LANGFLOW_UPDATE_STARTER_PROJECTS=false
  export LANGFLOW_AGENTIC_EXPERIENCE="${LANGFLOW_AGENTIC_EXPERIENCE:-false}" LANGFLOW_MCP_SERVER_ENABLED=false
  export LANGFLOW_LAZY_LOAD_COMPONENTS="${LANGFLOW_LAZY_LOAD_COMPONENTS:-true}"
  # A background result is cut to these lengths; the fixture for big results needs more than the default.
  export LANGFLOW_MAX_TEXT_LENGTH="${LANGFLOW_MAX_TEXT_LENGTH:-4000000}" LANGFLOW_MAX_ITEMS_LENGTH="${LANGFLOW_MAX_ITEMS_LENGTH:-100000}"
  # With pretty logs (the default) one failing component blocks the whole server for seconds.
  export LANGFLOW_PRETTY_LOGS="${LANGFLOW_PRETTY_LOGS:-false}" LANGFLOW_LOG_LEVEL="${LANGFLOW_LOG_LEVEL:-warning}"
  export ENGINE_FIXTURE_STATE="$1/state" ENGINE_FIXTURE_TRACE="${ENGINE_FIXTURE_TRACE:-$RUN/trace}"
  launch "$RUN/pid" "$RUN/log" "$VENV/bin/python" -m uvicorn --factory langflow.main:create_app \
    --host 127.0.0.1 --port "$PORT" --log-level warning
  wait_ok "$URL/health_check" "$RUN/pid" "$RUN/log" 300
}

take_lock "langflow-$VERSION"
stop_pid "$RUN/pid"
port_free "$PORT"
if [ ! -f "$VENV/installed" ]; then
  ensure_uv
  say "installing langflow-base $VERSION"
  "$UV" venv --quiet --python "$PYTHON" --clear "$VENV" >&2
  "$UV" pip install --quiet --compile-bytecode --python "$VENV/bin/python" \
    --constraint "$HERE/constraints.txt" "langflow-base==$VERSION" >&2
  touch "$VENV/installed"
fi
GOLDEN="$VENV/e2e-golden-$(hash_of "$HERE/make_flows.py" "$HERE/fixture_component.py" "$HERE/setup.py")"
if [ ! -f "$GOLDEN/fixture.json" ]; then
  say "preparing the data directory"
  rm -rf "$VENV"/e2e-golden-* "$RUN/data" "$RUN/flows"
  PYTHONDONTWRITEBYTECODE=1 "$VENV/bin/python" "$HERE/make_flows.py" "$RUN/flows" >&2
  start "$RUN/data"
  "$PYTHON" "$HERE/setup.py" prepare "$URL" "$RUN/flows" >"$RUN/fixture.json"
  stop_pid "$RUN/pid" 30
  cp "$RUN/fixture.json" "$RUN/data/fixture.json"
  cp -r "$RUN/data" "$GOLDEN.part" && mv "$GOLDEN.part" "$GOLDEN"
fi
flock -u 9
if [ "${KEEP_STATE:-0}" != 1 ] || [ ! -f "$RUN/data/fixture.json" ]; then
  rm -rf "$RUN/data"
  cp -r "$GOLDEN" "$RUN/data"
  : >"$RUN/trace"
fi
start "$RUN/data"
"$PYTHON" "$HERE/setup.py" describe "$URL" "$RUN/data/fixture.json" "$(cat "$RUN/pid")" "$VERSION" "$ENGINE_FIXTURE_TRACE"
