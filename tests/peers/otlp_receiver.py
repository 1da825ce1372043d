"""An OpenTelemetry receiver: decodes what is POSTed with opentelemetry-proto, and says what was in it.

    otlp_receiver.py PORT [TOKEN]      only requests with `Authorization: Bearer TOKEN` are taken

PORT 0 is any free one; it prints `listening PORT`, and for each request a line of JSON: path, encoding, resource {key: value}, metrics
{name: {kind, unit, monotonic, temporality, points: [{labels, number | count, sum, buckets, bounds, start, time}]}}. What is no
ExportMetricsServiceRequest, key by key, is answered with 400 and said as `wrong: REASON`.
"""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)


def attributes(pairs):
    return {pair.key: pair.value.string_value for pair in pairs}


def point(kind, data):
    told = {"labels": attributes(data.attributes), "start": data.start_time_unix_nano, "time": data.time_unix_nano}
    if kind in ("sum", "gauge"):
        told["number"] = data.as_double
    else:
        told.update(count=data.count, sum=data.sum)
    if kind == "histogram":
        told.update(buckets=list(data.bucket_counts), bounds=list(data.explicit_bounds))
    return told


def metric(told):
    kind = told.WhichOneof("data")
    data = getattr(told, kind)
    return {
        "kind": kind,
        "unit": told.unit,
        "monotonic": getattr(data, "is_monotonic", None),
        "temporality": getattr(data, "aggregation_temporality", None),
        "points": [point(kind, data) for data in data.data_points],
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        encoding = self.headers.get("Content-Encoding")
        if encoding == "gzip":
            body = gzip.decompress(body)
        try:
            if TOKEN and self.headers["Authorization"] != f"Bearer {TOKEN}":
                return self.answer(401, b"{}")
            assert self.headers["Content-Type"] == "application/json", self.headers["Content-Type"]
            request = json_format.Parse(body, ExportMetricsServiceRequest())
            # Whatever can't be written as protobuf is no message.
            request.SerializeToString()
            [resource] = request.resource_metrics
            [scope] = resource.scope_metrics
            told = {
                "path": self.path,
                "encoding": encoding,
                "resource": attributes(resource.resource.attributes),
                "metrics": {told.name: metric(told) for told in scope.metrics},
            }
            assert len(told["metrics"]) == len(scope.metrics), "a name is there twice"
        except Exception as error:
            print(f"wrong: {error}", flush=True)
            return self.answer(400, b"{}")
        print(json.dumps(told), flush=True)
        self.answer(200, json_format.MessageToJson(ExportMetricsServiceResponse()).encode())

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


TOKEN = sys.argv[2] if len(sys.argv) > 2 else None
SERVER = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print(f"listening {SERVER.server_address[1]}", flush=True)
SERVER.serve_forever()
