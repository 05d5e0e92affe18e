"""``python -m benchmarks [SCENARIO …]``; ``make bench`` does the same, with all that it needs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.hotloop import HERE
from benchmarks.installs import install
from benchmarks.report import as_json, as_markdown
from benchmarks.run import Results, measure, settle_down
from benchmarks.scenarios import FULL, QUICK, SCENARIOS, Measurement, Scale
from benchmarks.servers import SERVERS


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What the daemon costs, side by side.")
    parser.add_argument("scenario", nargs="*", help=f"any of {', '.join(SCENARIOS)}; all of them if left out")
    parser.add_argument("--quick", action="store_true", help="one short run of each, with fewer clients")
    parser.add_argument("--only", metavar="NAMES", help="these servers alone: ours, or names with commas between")
    parser.add_argument("--runs", type=int, help=f"runs of each server [{FULL.runs}]")
    parser.add_argument("--seconds", type=float, help=f"seconds of each phase [{FULL.seconds}]")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="where the results go")
    parser.add_argument("--no-install", action="store_true", help="install nothing; what is missing is named")
    options = parser.parse_args(arguments)
    unknown = set(options.scenario) - set(SCENARIOS)
    if unknown:
        parser.error(f"there is no scenario {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    return options


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else FULL
    return scale._replace(runs=options.runs or scale.runs, seconds=options.seconds or scale.seconds)


class _Choice:
    """Which servers are wanted."""

    def __init__(self, names: str | None) -> None:
        self._names = None if names is None else [name.strip().lower() for name in names.split(",")]

    def __call__(self, server: str) -> bool:
        if self._names is None:
            return True
        return any(
            server.lower() == name or (name == "ours" and server.startswith("realtime_chat")) for name in self._names
        )


def _write(options: argparse.Namespace, measurements: list[Measurement], results: Results, runs: int) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    text = as_markdown(measurements, results, runs)
    (options.output / "results.md").write_text(text)
    (options.output / "results.json").write_text(json.dumps(as_json(results), indent=1))
    print(text)
    try:
        from benchmarks.plots import draw
    except ImportError:
        print("No plots: matplotlib is not installed.", file=sys.stderr)
        return
    draw(results, options.output)


def main(arguments: list[str] | None = None) -> None:
    """Measure what is asked for, and write it down."""
    options = _parse(arguments)
    scale, wanted = _scale(options), _Choice(options.only)
    measurements = [one for name in options.scenario or SCENARIOS for one in SCENARIOS[name](scale)]
    needed = {name: SERVERS[name] for one in measurements for name in one.servers if wanted(name)}
    if not needed:
        sys.exit(f"--only: no such server takes part; there are {', '.join(SERVERS)}")
    if not options.no_install:
        install(needed.values(), _say)
    machine.raise_file_limit()
    settle_down()
    _write(options, measurements, measure(measurements, wanted, scale.runs, _say), scale.runs)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
