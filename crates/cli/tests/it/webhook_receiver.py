"""Receives webhooks, checks each with the standardwebhooks package, and prints what it received as JSON lines.

Which answer it gives stands in the path: /200, /500, /410, /hang (never one), /302 (elsewhere, to /200).
"""

import http.server
import json
import sys
import threading
import time

from standardwebhooks import Webhook, WebhookVerificationError

secret = Webhook(sys.argv[1])

printing = threading.Lock()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            secret.verify(body, dict(self.headers))
            verified = True
        except WebhookVerificationError:
            verified = False
        told = {
            "path": self.path,
            "id": self.headers["webhook-id"],
            "signatures": len(self.headers["webhook-signature"].split(" ")),
            "verified": verified,
            "token": self.headers.get("x-token"),
            "body": json.loads(body),
        }
        # One thread at a time, or lines would run into each other.
        with printing:
            print(json.dumps(told), flush=True)
        what = self.path.strip("/").split("/")[0]
        if what == "hang":
            time.sleep(3600)
        self.send_response(int(what))
        if what == "302":
            self.send_header("location", "/200/redirected")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
