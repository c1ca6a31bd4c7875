"""Enginehouse beside its peers: adds itself to a harness of peer queues and runs what is named.

    python3 bench/peers.py HARNESS [PEER[:MODE] ...]      default: enginehouse bullmq:always bullmq:everysec

HARNESS is a directory with `run.py` and the peers installed. `cargo build --release -p enginehouse -p xtask` goes before.
The service runs as it does by default, every submit synced before its answer, with one worker of 64 slots in its process. Each
peer prints one line of JSON; ROUNDS (default 1) repeats them all, one after another, so that their ratios share the machine.
"""
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
SERVICE = os.path.join(TARGET, "release", "enginehouse")
XTASK = os.path.join(TARGET, "release", "xtask")
PORT = os.environ.get("BENCH_ENGINEHOUSE_PORT", "18790")
CONFIG = f"""
[server]
listen = "127.0.0.1:{PORT}"

[scaling]
min_workers = 1
max_workers = 1
worker_capacity = 64

[engines.drain]
type = "demo"

[engines.live]
type = "demo"
"""


def call(method, path, key):
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", method=method, headers={"authorization": f"Bearer {key}"})
    return urllib.request.urlopen(request, timeout=5).read()


def serve(harness):
    """A fresh service whose engine `drain` is paused, as a queue without its worker."""
    data = os.path.join(harness.WORK, "enginehouse")
    shutil.rmtree(data, True)
    os.makedirs(data)
    config = os.path.join(data, "enginehouse.toml")
    with open(config, "w") as file:
        file.write(CONFIG)
    env = {**os.environ, "XDG_CONFIG_HOME": os.path.join(data, "config")}
    with open(os.path.join(data, "serve.log"), "w") as log:
        process = harness.spawn([SERVICE, "serve", "--config", config, "--data", os.path.join(data, "data")], env=env, stdout=log, stderr=log)
    key_file = os.path.join(data, "data", "admin.key")
    deadline = time.time() + 30
    while True:
        try:
            with open(key_file) as file:
                key = file.read().strip()
            call("GET", "/readyz", key)
            break
        except OSError as error:
            if time.time() > deadline or process.poll() is not None:
                raise SystemExit(f"the service did not start: {error}; see {data}/serve.log")
            time.sleep(0.05)
    call("POST", "/v1/engines/drain/pause", key)
    return process, {"ENGINEHOUSE_URL": f"http://127.0.0.1:{PORT}", "ENGINEHOUSE_API_KEY": key}


def one(directory, peer, mode):
    """Runs one peer in this process, as the harness does."""
    sys.path.insert(0, directory)
    import run
    run.PEERS["enginehouse"] = dict(server=lambda mode: serve(run), run=[XTASK, "bench", "peer"])
    version, said = run.version, subprocess.run([SERVICE, "--version"], capture_output=True, text=True).stdout.split()
    run.version = lambda name: said[-1] if name == "enginehouse" else version(name)
    sys.argv = ["run.py", peer] + ([mode] if mode else [])
    run.main()


def main():
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    directory, peers = os.path.abspath(sys.argv[1]), sys.argv[2:]
    if "--one" in peers:
        return one(directory, *(peers[1:] + [None])[:2])
    for program in (SERVICE, XTASK):
        if not os.path.exists(program):
            raise SystemExit(f"{program} is missing: cargo build --release -p enginehouse -p xtask")
    for _ in range(int(os.environ.get("ROUNDS", "1"))):
        for peer in peers or ["enginehouse", "bullmq:always", "bullmq:everysec"]:
            name, _, mode = peer.partition(":")
            command = [sys.executable, os.path.abspath(__file__), directory, "--one", name] + ([mode] if mode else [])
            subprocess.run(command, check=False)


if __name__ == "__main__":
    main()
