"""Requests beyond every limit of the server, for minutes: how fast they are refused, and memory.

    pip install 'medtask[serve,http]'
    python benchmarks/hammer.py --minutes 10 --clients 8

`medtask serve` is a process of its own. Every client sends, one after the other, requests that are
refused: bodies and texts that are too long, too many texts, bodies that are not JSON, keys that are
not valid, wrong passwords, and more requests than the rate allows.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

EXPECTED = frozenset({401, 403, 404, 413, 422, 429})
PASSWORD = "seven quiet lanterns"


@dataclass
class Measurements:
    """What the clients have seen."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, run_server(Path(folder) / "data") as started:
        process, url, link = started
        key = create_key(url, link)
        print(json.dumps(hammer(process.pid, url, key, options.minutes, options.clients)))


def hammer(pid: int, url: str, key: str, minutes: float, clients: int) -> dict[str, object]:
    """Send requests for some minutes; returns what was measured."""
    found = Measurements()
    end = time.monotonic() + 60 * minutes
    threads = [
        threading.Thread(target=send_requests, args=(url, key, seed, end, found))
        for seed in range(clients)
    ]
    # The first seconds load code, templates and the pool of threads.
    for thread in threads:
        thread.start()
    time.sleep(min(30.0, 15 * minutes))
    memory = [read_rss_mb(pid)]
    while time.monotonic() < end:
        time.sleep(1)
        memory.append(read_rss_mb(pid))
    for thread in threads:
        thread.join()
    seconds = sorted(found.seconds)
    return {
        "minutes": minutes,
        "clients": clients,
        "requests": len(seconds),
        "statuses": dict(sorted(found.statuses.items())),
        "p50_ms": round(1000 * statistics.median(seconds), 1),
        "p95_ms": round(1000 * seconds[int(0.95 * len(seconds))], 1),
        "max_ms": round(1000 * seconds[-1], 1),
        "rss_mb": {"first": memory[0], "last": memory[-1], "highest": max(memory)},
        "faults": found.faults[:10],
    }


def send_requests(url: str, key: str, seed: int, end: float, found: Measurements) -> None:
    dice = random.Random(seed)
    requests = list_requests(key)
    with httpx2.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < end:
            send = dice.choice(requests)
            begun = time.monotonic()
            try:
                response = send(client)
            except httpx2.HTTPError as error:
                # A refused body can end the connection before all of it was sent.
                found.statuses[0] += 1
                if not isinstance(error, httpx2.WriteError | httpx2.ReadError):
                    found.faults.append(type(error).__name__)
                continue
            found.seconds.append(time.monotonic() - begun)
            found.statuses[response.status_code] += 1
            if response.status_code not in EXPECTED:
                found.faults.append(f"{response.status_code} {response.text[:100]}")


def list_requests(key: str) -> list[Callable[[httpx2.Client], httpx2.Response]]:
    """Requests that are refused, each with another reason."""
    headers = {"Authorization": f"Bearer {key}"}
    many = {"texts": ["a text"] * 1_001, "task_id": 1}
    return [
        lambda client: client.post("/classify", content=b"x" * 4_000_001, headers=headers),
        lambda client: client.post("/classify", json=many, headers=headers),
        lambda client: client.post("/classify", json={"text": "x" * 200_001}, headers=headers),
        lambda client: client.post("/classify", content=b'{"text": [', headers=headers),
        lambda client: client.post("/ask", json={"question": 7}, headers=headers),
        lambda client: client.get("/api/datasets", headers={"Authorization": "Bearer mtk_no"}),
        lambda client: client.post("/sign-in", data={"name": "Ada", "password": "wrong"}),
        lambda client: client.get("/api/jobs/999999", headers=headers),
        lambda client: client.get("/api/me", headers={**headers, "Host": "elsewhere.example"}),
    ]


@contextmanager
def run_server(data: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, str]]:
    """Run the server; yields its process, its address and the link of the first administrator."""
    command = [sys.executable, "-m", "medtask", "serve", "--port", "0", "--workers", "0"]
    output = data.with_name("output")
    with (
        output.open("w") as lines,
        subprocess.Popen(
            [*command, "--data", str(data)],
            stdout=lines,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        ) as process,
    ):
        try:
            while not (link := re.search(r"(http://[^/\s]+)(/start/\S+)", output.read_text())):
                if process.poll() is not None:
                    raise SystemExit("the server has not started")
                time.sleep(0.1)
            wait_for_health(link[1])
            yield process, link[1], link[2]
        finally:
            process.terminate()


def wait_for_health(url: str) -> None:
    while True:
        try:
            if httpx2.get(f"{url}/health").status_code == 200:
                return
        except httpx2.HTTPError:
            time.sleep(0.1)


def create_key(url: str, link: str) -> str:
    """Create the first administrator and an API key."""
    with httpx2.Client(base_url=url, timeout=60) as client:
        chosen = {"name": "Ada", "password": PASSWORD, "repeated": PASSWORD}
        client.post(link, data=chosen)
        page = client.get("/account").text
        token = page.split('name="csrf-token" content="')[1].split('"')[0]
        wanted = {"name": "hammer", "scopes": ["read", "label"]}
        created = client.post("/api/keys", json=wanted, headers={"X-CSRF-Token": token})
        return str(created.json()["secret"])


def read_rss_mb(pid: int) -> float:
    """Resident memory of a process, from /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


if __name__ == "__main__":
    main()
