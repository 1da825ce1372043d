#!/usr/bin/env python3
"""Audits what Cargo.lock brings in: licences, banned crates, sources, yanked versions; lists duplicates.

It covers what the crates and their registry tell by themselves. It does NOT cover security advisories: RustSec's database
is a git repository and no registry carries it. A yanked version often follows an advisory, but need not. Where the
database can be reached, `cargo audit` is the tool for that.

    packaging/audit.py          exit code 0: all well, 1: findings
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict

# What may be linked into a product that is itself MIT OR Apache-2.0. MPL-2.0 is copyleft by file: its text goes into the
# package's copyright file, and changed files of such a crate would have to be published; nothing else follows.
ALLOWED = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0",
    "CDLA-Permissive-2.0", "ISC", "MIT", "MIT-0", "MPL-2.0", "Unicode-3.0", "Unlicense", "Zlib",
}  # fmt: skip

# Crate -> why it must not come in, not even through another one.
BANNED = {
    "aws-lc-sys": "does not cross-build for armv7 without clang and cmake; rustls runs on ring here",
    "openssl-sys": "needs OpenSSL for each target; rustls is the only TLS",
    "native-tls": "is OpenSSL on Linux; rustls is the only TLS",
    "rodbus": "its licence forbids commercial use",
    "dnp3": "its licence forbids commercial use",
    "evalexpr": "AGPL-3.0 from version 12 on",
    "serde_yml": "unsound (RUSTSEC-2025-0068)",
    "rumqttc": "0.25 loses what was unacknowledged when a clean session reconnects; rumqttc-v4-next is used",
}

CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def is_allowed(expression):
    """Evaluates an SPDX licence expression; AND binds closer than OR, `/` is the old spelling of OR.

    >>> [is_allowed(text) for text in ("MIT", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0")]
    [True, True, True]
    >>> is_allowed("MIT OR GPL-3.0-only"), is_allowed("MIT AND GPL-3.0-only"), is_allowed("GPL-3.0-only")
    (True, False, False)
    >>> is_allowed("GPL-3.0-only OR MIT AND ISC"), is_allowed("(GPL-3.0-only OR MIT) AND AGPL-3.0-only")
    (True, False)
    >>> is_allowed("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"), is_allowed("GPL-2.0 WITH GCC-exception-2.0")
    (True, False)
    >>> is_allowed(None), is_allowed(""), is_allowed("MIT OR"), is_allowed("(MIT")
    (False, False, False, False)
    """
    tokens = re.findall(r"[()]|[^\s()]+", (expression or "").replace("/", " OR "))

    def either():
        results = [both()]
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            results.append(both())
        return any(results)

    def both():
        results = [one()]
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            results.append(one())
        return all(results)

    def one():
        token = tokens.pop(0)
        if token == "(":
            result = either()
            if tokens.pop(0) != ")":
                raise ValueError(expression)
            return result
        if tokens and tokens[0] == "WITH":
            token = f"{token} WITH {tokens[1]}"
            del tokens[:2]
        return token in ALLOWED

    try:
        return either() and not tokens
    except (IndexError, ValueError):
        return False


def findings(packages):
    """What is wrong with the locked packages.

    >>> good = {"name": "a", "version": "1.0.0", "license": "MIT", "source": CRATES_IO}
    >>> list(findings([good]))
    []
    >>> for found in findings([good | {"license": None}, good | {"source": "git+https://x"}, good | {"name": "rodbus"}]):
    ...     print(found)
    a 1.0.0: licence None is not in the list of allowed ones
    a 1.0.0: comes from git+https://x, not from the registry
    rodbus 1.0.0: banned, its licence forbids commercial use
    """
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if not is_allowed(package["license"]):
            yield f"{name}: licence {package['license']} is not in the list of allowed ones"
        if package["source"] != CRATES_IO:
            yield f"{name}: comes from {package['source']}, not from the registry"
        if package["name"] in BANNED:
            yield f"{name}: banned, {BANNED[package['name']]}"


def yanked():
    """The locked versions that were taken back, as `cargo package` reports them from the registry's index."""
    command = ["cargo", "package", "--locked", "--allow-dirty", "--no-verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        yield f"cargo package failed, so yanked versions are unknown: {done.stderr.strip()}"
    yield from re.findall(r"package `([^`]+)` in Cargo.lock is yanked", done.stderr)


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    metadata = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1"], capture_output=True, text=True, check=True
    )
    packages = [package for package in json.loads(metadata.stdout)["packages"] if package["source"]]
    found = [*findings(packages), *(f"{what}: yanked" for what in yanked())]

    versions = defaultdict(list)
    for package in packages:
        versions[package["name"]].append(package["version"])
    for name, several in sorted(versions.items()):
        if len(several) > 1:
            print(f"note: {name} is there in {len(several)} versions: {', '.join(sorted(several))}")
    for what in found:
        print(f"error: {what}")
    print(f"{len(packages)} crates audited, {len(found)} findings (security advisories are not covered)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
