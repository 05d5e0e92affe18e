"""``python -m benchmarks [SCENARIO …]``; ``make bench`` does the same, with all that it needs."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from benchmarks import machine
from benchmarks.hotloop import HERE, compile_hot_loop
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
        # A comma within a name has a space after it, as in "realtime_chat, memory".
        self._names = None if names is None else re.split(",(?! )", names.lower())

    def __call__(self, server: str) -> bool:
        if self._names is None:
            return True
        return any(
            server.lower() == name or (name == "ours" and server.startswith("realtime_chat")) for name in self._names
        )


def _write(options: argparse.Namespace, measurements: list[Measurement], results: Results, runs: int) -> str:
    """Write down what was measured so far."""
    options.output.mkdir(parents=True, exist_ok=True)
    text = as_markdown([one for one in measurements if one.title in results], results, runs)
    (options.output / "results.md").write_text(text)
    (options.output / "results.json").write_text(json.dumps(as_json(results), indent=1))
    return text


def _draw(options: argparse.Namespace, results: Results) -> None:
    try:
        from benchmarks.plots import draw
    except ImportError:
        _say("No plots: matplotlib is not installed; the extra bench brings it.")
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
    _check_compiler()
    machine.raise_file_limit()
    settle_down()
    results: Results = {}
    for measurement in measurements:
        results |= measure([measurement], wanted, scale.runs, _say)
        text = _write(options, measurements, results, scale.runs)
    print(text)
    _draw(options, results)


def _check_compiler() -> None:
    """The generator's hot loop is compiled before anything is measured."""
    try:
        compile_hot_loop()
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        sys.exit(f"The load generator can't be compiled ({error}); it needs the Debian packages gcc and libc6-dev.")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
