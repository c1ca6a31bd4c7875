#!/usr/bin/env bash
# Stop the Agent Server that up.sh started:  langgraph/down.sh [PORT]
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../common.sh"
stop_pid "$CACHE/run/e2e-langgraph-${1:-8123}/pid"
