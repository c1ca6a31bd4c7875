#!/usr/bin/env bash
# Start a real n8n with the fixture workflows active, and print its address as JSON.
#
#   n8n/up.sh [PORT]      default 5678; PORT+1 is used for n8n's task broker
#
# The first run installs n8n (and Node 24 when the system has an older one) and prepares a
# data directory with an owner, an API key and the active workflows. Later runs copy that
# directory and start, so each run begins with the same empty execution list.
# Needs: bash, curl, python3, npm, make and a C++ compiler (the SQLite driver is built once).
# Any N8N_* or EXECUTIONS_* variable of the caller reaches n8n, for instance
# N8N_CONCURRENCY_PRODUCTION_LIMIT=2. With KEEP_STATE=1 the data of the last run on this port is
# taken up again, as after a restart.
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
. "$HERE/../common.sh"

VERSION=2.41.1
NODE_VERSION=24.21.0
PORT="${1:-5678}"
BASE="$CACHE/n8n-$VERSION"
RUN="$CACHE/run/e2e-n8n-$PORT"
URL="http://127.0.0.1:$PORT"
NPM_FLAGS=(--ignore-scripts --no-audit --no-fund --loglevel=error)
need curl "$PYTHON" npm flock setsid
mkdir -p "$BASE" "$RUN"

find_node() {
  local major
  major="$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)"
  if [ "$major" -ge 24 ]; then
    NODE_BIN="$(dirname "$(command -v node)")"
    NODE_DIR="$(dirname "$NODE_BIN")"
    return
  fi
  local arch
  case "$(uname -m)" in
    x86_64) arch=x64 ;;
    aarch64) arch=arm64 ;;
    *) die "no Node $NODE_VERSION for $(uname -m)" ;;
  esac
  NODE_DIR="$BASE/node/node_modules/node-linux-$arch"
  NODE_BIN="$NODE_DIR/bin"
  if [ ! -x "$NODE_BIN/node" ]; then
    say "installing Node $NODE_VERSION"
    mkdir -p "$BASE/node"
    npm install --prefix "$BASE/node" "${NPM_FLAGS[@]}" "node-linux-$arch@$NODE_VERSION" >&2
  fi
}

install() {
  find_node
  export PATH="$NODE_BIN:$PATH"
  [ -f "$BASE/installed" ] && return
  say "installing n8n $VERSION (some minutes)"
  rm -rf "$BASE/app"
  mkdir -p "$BASE/app"
  echo "{\"name\":\"n8n-fixture\",\"private\":true,\"dependencies\":{\"n8n\":\"$VERSION\"}}" >"$BASE/app/package.json"
  # The lock file pins every indirect package too; without it the tree is resolved anew.
  gzip -dc "$HERE/package-lock.json.gz" >"$BASE/app/package-lock.json"
  if ! (cd "$BASE/app" && npm install "${NPM_FLAGS[@]}") >&2; then
    say "the pinned packages could not all be had; resolving anew"
    rm -rf "$BASE/app/node_modules" "$BASE/app/package-lock.json"
    (cd "$BASE/app" && npm install "${NPM_FLAGS[@]}") >&2
  fi
  if [ ! -f "$BASE/app/node_modules/sqlite3/build/Release/node_sqlite3.node" ]; then
    say "building the SQLite driver (a minute or two)"
    (cd "$BASE/app" && npm_config_nodedir="$NODE_DIR" npm_config_build_from_source=true \
      npm rebuild --loglevel=error sqlite3) >&2
  fi
  touch "$BASE/installed"
}

n8n_env() { # DATA_DIR
  export N8N_USER_FOLDER="$1"
  export N8N_LISTEN_ADDRESS=127.0.0.1 N8N_HOST=127.0.0.1 N8N_PORT="$PORT" N8N_PROTOCOL=http
  export WEBHOOK_URL="$URL/" N8N_RUNNERS_BROKER_PORT="$((PORT + 1))"
  export N8N_DIAGNOSTICS_ENABLED=false N8N_VERSION_NOTIFICATIONS_ENABLED=false
  export N8N_TEMPLATES_ENABLED=false N8N_PERSONALIZATION_ENABLED=false
  export N8N_COMMUNITY_PACKAGES_ENABLED=false N8N_DISABLE_UI=true N8N_SECURE_COOKIE=false
  export N8N_METRICS="${N8N_METRICS:-true}" GENERIC_TIMEZONE=UTC
  export NODE_ENV=production # as in the official image; otherwise error answers carry a stack trace
}

n8n_cli() { node "$BASE/app/node_modules/n8n/bin/n8n" "$@"; }

start() { # DATA_DIR
  n8n_env "$1"
  launch "$RUN/pid" "$RUN/log" node "$BASE/app/node_modules/n8n/bin/n8n" start
  wait_ok "$URL/healthz/readiness" "$RUN/pid" "$RUN/log" 180
}

take_lock "n8n-$VERSION"
stop_pid "$RUN/pid"
port_free "$PORT"
install
GOLDEN="$BASE/e2e-golden-$(hash_of "$HERE/make_workflows.py" "$HERE/setup.py")"
if [ ! -f "$GOLDEN/fixture.json" ]; then
  say "preparing the data directory"
  rm -rf "$BASE"/e2e-golden-* "$RUN/data" "$RUN/workflows"
  mkdir -p "$RUN/data"
  "$PYTHON" "$HERE/make_workflows.py" "$RUN/workflows" >"$RUN/ids.json"
  (n8n_env "$RUN/data" && n8n_cli import:workflow --separate --input="$RUN/workflows") >"$RUN/import.log" 2>&1 ||
    { tail -n 20 "$RUN/import.log" >&2; die "import failed"; }
  start "$RUN/data"
  "$PYTHON" "$HERE/setup.py" prepare "$URL" "$RUN/ids.json" >"$RUN/fixture.json"
  stop_pid "$RUN/pid" 30
  cp "$RUN/fixture.json" "$RUN/data/fixture.json"
  cp -r "$RUN/data" "$GOLDEN.part" && mv "$GOLDEN.part" "$GOLDEN"
fi
flock -u 9
if [ "${KEEP_STATE:-0}" != 1 ] || [ ! -f "$RUN/data/fixture.json" ]; then
  rm -rf "$RUN/data"
  cp -r "$GOLDEN" "$RUN/data"
fi
start "$RUN/data"
"$PYTHON" "$HERE/setup.py" describe "$URL" "$RUN/data/fixture.json" "$(cat "$RUN/pid")" "$VERSION"
