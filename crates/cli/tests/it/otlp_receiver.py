"""Receives OTLP over HTTP and prints what it read, one JSON object a span; the messages are OpenTelemetry's own."""

import http.server
import json
import threading

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.trace.v1 import trace_pb2

printing = threading.Lock()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = messages.ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            resource = values(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    self.tell(resource, span)
        answer = messages.ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def tell(self, resource, span):
        told = {
            "path": self.path,
            "key": self.headers.get("x-api-key"),
            "project": self.headers.get("langsmith-project"),
            "service": resource.get("service.name"),
            "trace": span.trace_id.hex(),
            "span": span.span_id.hex(),
            "parent": span.parent_span_id.hex(),
            "name": span.name,
            "kind": trace_pb2.Span.SpanKind.Name(span.kind),
            "status": trace_pb2.Status.StatusCode.Name(span.status.code),
            "message": span.status.message,
            "from": span.start_time_unix_nano,
            "to": span.end_time_unix_nano,
            "attributes": values(span.attributes),
        }
        # One thread at a time, or lines would run into each other.
        with printing:
            print(json.dumps(told), flush=True)

    def log_message(self, *_):
        pass


def values(attributes):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
server.serve_forever()
