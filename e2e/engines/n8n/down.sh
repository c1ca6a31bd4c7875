#!/usr/bin/env bash
# Stop the n8n that up.sh started:  n8n/down.sh [PORT]
set -euo pipefail
. "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../common.sh"
stop_pid "$CACHE/run/e2e-n8n-${1:-5678}/pid" 20
