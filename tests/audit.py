"""Asks the advisory database about every dependency that is installed: `make audit`. Needs the network.

0: nothing is known against any of them; 1: something is; 2: the question was not answered, for all of them or for some.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BUILD = Path("build")
OURS = "tcp-sniffer"


def judge(report: dict[str, Any] | None, why: str) -> tuple[int, list[str]]:
    """The exit code, and what to say, of a report of pip-audit; None: it made none, and `why` is what it said."""
    if report is None:
        return 2, [f"not audited: the advisory database gave no answer\n{why.strip()}"]
    found: list[str] = []
    unknown: list[str] = []
    for dependency in report["dependencies"]:
        name = dependency["name"]
        if "skip_reason" in dependency:
            unknown.append(f"not audited: {name}: {dependency['skip_reason']}")
        found += [
            f"{name} {dependency['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version'}"
            for flaw in dependency.get("vulns", ())
        ]
    count = len(report["dependencies"])
    if unknown and len(unknown) == count:
        unknown = [f"not audited: the advisory database knows none of {count} dependencies: it cannot be reached here"]
    summary = [] if found or unknown else [f"{count} dependencies, nothing is known against any of them"]
    return (1 if found else 2 if unknown or not count else 0), [*found, *unknown, *summary]


def main() -> int:
    """Writes build/audit.txt and build/audit.json."""
    BUILD.mkdir(exist_ok=True)
    pins, result = BUILD / "audit.txt", BUILD / "audit.json"
    installed = {(each.metadata["Name"], each.version) for each in importlib.metadata.distributions()}
    pins.write_text("".join(f"{name}=={version}\n" for name, version in sorted(installed) if name != OURS))
    result.unlink(missing_ok=True)
    command = ["--no-deps", "--disable-pip", "--progress-spinner=off", "--format=json", f"--output={result}"]
    command += [f"--requirement={pins}", *sys.argv[1:]]
    done = subprocess.run([sys.executable, "-m", "pip_audit", *command], capture_output=True, text=True, check=False)
    report = json.loads(result.read_text()) if result.exists() and result.read_text().strip() else None
    code, said = judge(report, done.stderr)
    print("\n".join(said), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main())
