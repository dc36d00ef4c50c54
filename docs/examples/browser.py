"""Serves a page that transcribes its visitor's microphone, and mints the secrets it needs.

pip install openai
stt-server --auth-api-keys secret
python browser.py secret            # then open http://127.0.0.1:8000

The page never sees the API key: it asks this program for a short-lived secret. Only pages from this
machine may use the server as it is; allow others with --auth-allowed-origins https://app.example.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from openai import OpenAI

SERVER = "http://127.0.0.1:15751/v1"
PORT = 8000
client = OpenAI(base_url=SERVER, api_key=sys.argv[1])


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        page = Path(__file__).with_name("browser.html").read_bytes()
        self.answer("text/html; charset=utf-8", page)

    def do_POST(self) -> None:
        rate = int(parse_qs(urlsplit(self.path).query)["rate"][0])
        secret = client.realtime.client_secrets.create(
            session={
                "type": "transcription",
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": rate},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
                    }
                },
            },
            expires_after={"anchor": "created_at", "seconds": 60},
        )
        address = SERVER.replace("http", "ws", 1) + "/realtime"
        body = {"secret": secret.value, "address": address}
        self.answer("application/json", json.dumps(body).encode())

    def answer(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


print(f"http://127.0.0.1:{PORT}", flush=True)
ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
