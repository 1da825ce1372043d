"""HTTP servers that say what they got, and answer what they are told on their standard input.

    http_server.py plain PORT USER PASSWORD              http.server of the standard library: HTTP/1.1, basic authentication
    http_server.py tls PORT CERTIFICATE KEY [CLIENT_CA]  hypercorn: HTTP/2 over TLS where the client offers it (ALPN); client certificates

PORT 0 is any free one; it prints `listening PORT`, and for each request a line of JSON: version, headers, body (unpacked).

Commands: `answer STATUS COUNT` (so many requests get this answer; all others 204). Each is answered with `ok`.
"""

import asyncio
import base64
import gzip
import json
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ANSWERS = []


def said(line):
    print(line, flush=True)


def answer(version, headers, body):
    """Tells what came, and gives the status to answer with."""
    headers = {name.lower(): value for name, value in headers}
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    said(json.dumps({"version": version, "headers": headers, "body": body.decode()}))
    return ANSWERS.pop(0) if ANSWERS else 204


def commands():
    for line in sys.stdin:
        _, status, count = line.split()
        ANSWERS.extend([int(status)] * int(count))
        said("ok")


def plain(port, user, password):
    expected = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = 401
            if self.headers["Authorization"] == expected:
                status = answer("1.1", self.headers.items(), body)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    said(f"listening {server.server_port}")
    server.serve_forever()


def tls(port, certificate, key, client_ca=None):
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            part = await receive()
            if part["type"] != "http.request":
                return
            body, more = body + part["body"], part.get("more_body", False)
        headers = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        status = answer(scope["http_version"], headers, body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.certfile, config.keyfile, config.loglevel = certificate, key, "CRITICAL"
    if client_ca:
        config.ca_certs, config.verify_mode = client_ca, ssl.CERT_REQUIRED
    said(f"listening {listener.getsockname()[1]}")
    asyncio.run(serve(app, config, shutdown_trigger=asyncio.Future))


kind, port, *rest = sys.argv[1:]
threading.Thread(target=commands, daemon=True).start()
{"plain": plain, "tls": tls}[kind](int(port), *rest)
