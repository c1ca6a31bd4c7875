#!/usr/bin/env bash
# Stop the Langflow that up.sh started:  langflow/down.sh [PORT]
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../common.sh"
stop_pid "$CACHE/run/e2e-langflow-${1:-7860}/pid" 20
