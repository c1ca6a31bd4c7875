"""Write the fixture workflows as n8n JSON files into OUT_DIR.

Usage: python3 make_workflows.py OUT_DIR

Every workflow starts with a Webhook node (POST /webhook/fixture-NAME, JSON body) and has
a fixed id, so that a second import replaces the first. Most answer at once with their execution id
(the Webhook option "Response Data"), which is the way to be followed and re-attached to:

  echo        {"message"}            returns it
  slow        {"seconds","key"}      waits, then returns; saves its progress after each node
  fail        {"message"}            a Code node throws
  big         {"kb"}                 returns kb KiB
  flaky       {"key","failures"}     throws for the first `failures` calls with that key

Two stand for workflows that were not made for it:

  ack         {"seconds","key"}      answers {"executionId": ...} through a Respond node, then waits
  lookup      {"seconds","key"}      waits and answers when its last node finished, without any id

And some that are hard to follow:

  say404, say429, say503             a Respond node answers with that status; the execution succeeds
  unsaved                            waits a second; n8n keeps nothing of its executions
"""

import json
import sys
from pathlib import Path

CODES = (404, 429, 503)
NAMES = ("echo", "slow", "fail", "big", "flaky", "ack", "lookup", "unsaved", *(f"say{code}" for code in CODES))
IDS = {name: f"fixture{name.capitalize()}".ljust(16, "0")[:16] for name in NAMES}

ECHO = """
return [{ json: { echo: $input.first().json.body?.message ?? null, executionId: $execution.id } }];
"""
FAIL = """
throw new Error($input.first().json.body?.message || 'deliberate failure');
"""
BIG = """
const kb = Number($input.first().json.body?.kb ?? 64);
return [{ json: { kb, data: 'x'.repeat(kb * 1024) } }];
"""
# Two nodes: what a Code node writes to the static data is lost when that same node throws.
COUNT = """
const { key = 'default', failures = 1 } = $input.first().json.body ?? {};
const store = $getWorkflowStaticData('global');
store[key] = (store[key] ?? 0) + 1;
return [{ json: { key, failures, attempt: store[key] } }];
"""
FLAKY = """
const { key, failures, attempt } = $input.first().json;
if (attempt <= failures) {
  throw new Error(`flaky ${key}: attempt ${attempt} of ${failures} failing`);
}
return [{ json: { key, attempt } }];
"""
DONE = """
const body = $('Webhook').first().json.body ?? {};
return [{ json: { slept: Number(body.seconds ?? 5), key: body.key ?? null, executionId: $execution.id } }];
"""
ACK = "={{ JSON.stringify({ executionId: $execution.id }) }}"


def node(name, kind, version, params, x, **extra):
    return {
        "id": name.lower().replace(" ", "-"),
        "name": name,
        "type": f"n8n-nodes-base.{kind}",
        "typeVersion": version,
        "position": [x, 0],
        "parameters": params,
        **extra,
    }


def webhook(name, mode, options):
    return node(
        "Webhook",
        "webhook",
        2,
        {"httpMethod": "POST", "path": f"fixture-{name}", "responseMode": mode, "options": options},
        0,
        webhookId=f"fixture-{name}",
    )


def code(name, source, x):
    return node(name, "code", 2, {"mode": "runOnceForAllItems", "language": "javaScript", "jsCode": source.strip()}, x)


def wait(x):
    amount = "={{ Number($('Webhook').first().json.body.seconds ?? 5) }}"
    return node("Wait", "wait", 1.1, {"resume": "timeInterval", "amount": amount, "unit": "seconds"}, x,
                webhookId="fixture-wait")


def respond(x, body=ACK, **options):
    return node("Respond", "respondToWebhook", 1.1, {"respondWith": "json", "responseBody": body, "options": options}, x)


TRACKED = ("onReceived", {"responseData": ACK})
FLOWS = {
    "echo": (*TRACKED, [code("Echo", ECHO, 200)]),
    "slow": (*TRACKED, [wait(200), code("Done", DONE, 400)]),
    "fail": (*TRACKED, [code("Fail", FAIL, 200)]),
    "big": (*TRACKED, [code("Big", BIG, 200)]),
    "flaky": (*TRACKED, [code("Count", COUNT, 200), code("Flaky", FLAKY, 400)]),
    "ack": ("responseNode", {}, [respond(200), wait(400), code("Done", DONE, 600)]),
    "lookup": ("lastNode", {}, [wait(200), code("Done", DONE, 400)]),
    "unsaved": (*TRACKED, [node("Wait", "wait", 1.1, {"resume": "timeInterval", "amount": 1, "unit": "seconds"}, 200,
                                webhookId="fixture-unsaved-wait")]),
    **{
        f"say{status}": ("responseNode", {}, [respond(200, '{"error": "customer 4711 is not registered"}', responseCode=status)])
        for status in CODES
    },
}
SETTINGS = {
    "slow": {"saveExecutionProgress": True},
    "unsaved": {"saveDataSuccessExecution": "none", "saveDataErrorExecution": "none"},
}


def build(name):
    mode, options, rest = FLOWS[name]
    nodes = [webhook(name, mode, options), *rest]
    links = {
        a["name"]: {"main": [[{"node": b["name"], "type": "main", "index": 0}]]} for a, b in zip(nodes, nodes[1:])
    }
    return {
        "id": IDS[name],
        "name": f"fixture-{name}",
        "active": False,
        "nodes": nodes,
        "connections": links,
        "settings": {
            "executionOrder": "v1",
            "saveDataSuccessExecution": "all",
            "saveDataErrorExecution": "all",
            "saveManualExecutions": True,
            **SETTINGS.get(name, {}),
        },
    }


def main():
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    for name in FLOWS:
        (out / f"{name}.json").write_text(json.dumps(build(name), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(IDS))


main()
