"""A minimal stand-in for the model server, with the same command line and HTTP interface.

The text of an image file is its prediction: `069.French_bulldog`. A text that begins with `bad` is an unreadable image
(400), `slow` takes a second, `busy` is rejected once (503) and `crash` always (500). A model folder whose `model.json`
has `broken` cannot be served.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

parser = argparse.ArgumentParser()
for option in ("--model-dir", "--port", "--ready-file"):
    parser.add_argument(option, required=True)
given = parser.parse_args()
card = json.loads((Path(given.model_dir) / "model.json").read_text())
if card.get("broken"):
    sys.exit("model.safetensors: the header is not JSON")
time.sleep(card.get("startup_s", 0))
while "waits_for" in card and not Path(card["waits_for"]).exists():
    time.sleep(0.02)
refused = set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 0.3  # keep-alive, seconds

    def do_GET(self):
        self.answer(200, {})

    def do_POST(self):
        text = self.rfile.read(int(self.headers["Content-Length"])).decode(errors="replace").strip()
        if text.startswith("bad"):
            return self.answer(400, {"error": f"cannot be read as an image: {text[:20]}"})
        if text.startswith("crash"):
            return self.answer(500, {"error": "out of memory"})
        if text.startswith("busy") and text not in refused:
            refused.add(text)
            return self.answer(503, {"error": "busy"})
        if text.startswith("slow"):
            ready.with_name("answering").touch()
            time.sleep(1)
        label, _, name = text.removeprefix("busy ").removeprefix("slow ").partition(".")
        top = [{"label": label, "class_name": name or label, "confidence": 0.75}]
        top.append({"label": "999", "class_name": card.get("other", "other"), "confidence": 0.25})
        best = {"predicted_label": label, "class_name": name or label, "confidence": 0.75}
        if os.environ.get("DOGBREED_ANSWER") == "index":
            return self.answer(200, int(label))
        self.answer(200, {**best, "top_k": top[: int(os.environ.get("DOGBREED_TOP_K", "5"))]})

    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(given.port)), Handler)
server.daemon_threads = False  # waits for open requests
server.block_on_close = True
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
ready = Path(given.ready_file)
ready.with_suffix(".new").write_text(json.dumps({"port": server.server_address[1], "pid": os.getpid()}))
ready.with_suffix(".new").replace(ready)
print("serving", card.get("other", "a model"), flush=True)
server.serve_forever(0.02)
server.server_close()
print("ended well", flush=True)
