"""A Cloud Storage of one object, bucket/logs/a.csv: its metadata, its listing and its bytes, by the JSON API.

`python tests/google_storage.py` prints its port and serves. A process of its own: pyarrow holds Python's lock while it
opens an object of gs://, so a server in the same process could not answer.
"""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

CONTENT = b"user_id,item_id,timestamp\na,x,1\nb,y,2\n"
ABOUT = {"bucket": "bucket", "name": "logs/a.csv", "size": str(len(CONTENT)), "generation": "1"}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        status, body = 200, b"{}"
        if url.path.endswith("/b/bucket/o"):
            prefix = parse_qs(url.query).get("prefix", [""])[0]
            body = json.dumps({"items": [ABOUT] if ABOUT["name"].startswith(prefix) else []}).encode()
        elif not url.path.endswith("a.csv"):
            status = 404
        elif "alt=media" in url.query:
            body = CONTENT
            if wanted := self.headers.get("Range"):
                first, last = wanted.removeprefix("bytes=").split("-")
                status, body = 206, CONTENT[int(first) : int(last) + 1 if last else None]
        else:
            body = json.dumps(ABOUT).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
