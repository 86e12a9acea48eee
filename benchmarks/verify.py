"""Owners and suspects behind an HTTP server: surrogates that should be accused, and innocent models that should not.

``python -m benchmarks.verify --seeds 0-4 --folder verify``: a key for each seed, unmarked models attacked as the
suspects were, and a suspect of each kind behind a server on the loopback, which is asked with ``--sequential``.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

import harness
from harness.inspect.export import export, find_cell
from harness.planning.matrix import parse_seeds
from harness.storage.remote import open_results

# On digits, seeds 200-207, copies of three times the recipe's epochs answered 57 to 99% of EWE's triggers, those of as
# many epochs 19 to 74%.
EXTRACTION, REMOVAL = "retraining[answers=probabilities,epochs=60]", "fine-tuning"
MAPPING = '[request]\nfield = "instances"\nbatch = 1\n[response]\nfield = "predictions"\n'


@contextmanager
def served(net: Any) -> Iterator[str]:
    """The address of a server that answers the classes of a net."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with torch.inference_mode():
                labels = net(torch.tensor(body["instances"])).argmax(1).tolist()
            text = json.dumps({"predictions": labels}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/"
    finally:
        http.shutdown()
        http.server_close()


def owners(seeds: tuple[int, ...], dataset: str, defense: str, nulls: int, folder: Path) -> None:
    """A key of each seed, and the suspects of each as files."""
    results = str(folder / "results")
    for seed in seeds:
        if (folder / f"owner-{seed}").exists():
            continue
        chosen: dict[str, Any] = {"attacks": [EXTRACTION, REMOVAL], "nulls": nulls, "others": 0, "seed": seed}
        harness.embed(defense, dataset, folder / f"owner-{seed}", results=results, progress=False, **chosen)
    harness.run(
        None, datasets=dataset, defenses="unmarked", attacks="none", seeds=[*seeds], nulls=0, results=results, jobs=1
    )
    store, tables = open_results(results)
    cells = tables.read("cells")
    for seed in seeds:
        for scheme, attack in ((defense, EXTRACTION), (defense, REMOVAL), ("unmarked", "none")):
            if (folder / f"{attack}-{seed}").exists():
                continue
            (id,) = cells[cells["defense"].eq(scheme) & cells["attack"].eq(attack) & cells["seed"].eq(seed)]["cell"]
            export(find_cell(store, tables, id), folder / f"{attack}-{seed}", with_key=False)


def asked(kind: str, seeds: tuple[int, ...], folder: Path) -> list[tuple[bool, Any]]:
    """Verifications of the suspects of a kind, each with true where it is the owner's own seed. Innocent models are
    asked the keys of all owners."""
    made = []
    for seed in seeds:
        net = harness.load_model(folder / f"{kind}-{seed}" / "surrogate.safetensors")
        with served(net) as url:
            for owner in seeds if kind == "none" else [seed]:
                log = folder / f"{kind}-{seed}-{owner}.jsonl"
                log.unlink(missing_ok=True)  # of an earlier server, at another port
                where: dict[str, Any] = {"mapping": folder / "api.toml", "log": log, "sequential": True}
                made.append((seed == owner, harness.verify(folder / f"owner-{owner}", url, **where)))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=parse_seeds, default=parse_seeds("0-4"))
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--defense", default="ewe")
    parser.add_argument("--nulls", type=int, default=39)
    parser.add_argument("--folder", type=Path, required=True, help="Folder of keys, suspects and results; it goes on.")
    given = parser.parse_args()
    given.folder.mkdir(exist_ok=True, parents=True)
    (given.folder / "api.toml").write_text(MAPPING)
    owners(given.seeds, given.dataset, given.defense, given.nulls, given.folder)
    for kind in (EXTRACTION, REMOVAL, "none"):
        begin = time.perf_counter()
        pairs = asked(kind, given.seeds, given.folder)
        seconds = (time.perf_counter() - begin) / len(pairs)
        own = [made for is_own, made in pairs if is_own]
        print(f"{kind}: marked {sum(made.marked for made in own)} of {len(own)} seeds", end=", ")
        print(f"of all pairs {sum(made.marked for _, made in pairs)} of {len(pairs)}; {seconds:.2f} s each")
        for made in own:
            judged, control = made.judged, made.control
            placebo = f", control {control.matches} of {control.trials}" if control else ""
            of = f"{judged.matches} of {judged.trials} triggers asked, of {made.whole}"
            print(f"  {made.verdict}: {of}{placebo}; {made.queries} queries; p {judged.p_value:.3f}")


if __name__ == "__main__":
    main()
