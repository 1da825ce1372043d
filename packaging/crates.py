#!/usr/bin/env python3
"""What a package must say about the crates inside its program, from Cargo.lock and the crates themselves.

    packaging/crates.py copyright           Debian's copyright file: our licence, and the notices of all that is linked in
    packaging/crates.py sbom TARGET         a bill of materials for one target (CycloneDX 1.5, JSON)

Only what is linked into the program counts: crates that build it or test it are in neither. The standard library only.
"""

import json
import os
import re
import subprocess
import sys
import uuid
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "armv7-unknown-linux-gnueabihf")

# Licences that every Debian has in /usr/share/common-licenses: named, not repeated.
COMMON = {
    "Apache-2.0": ("apache license", "version 2.0"),
    "MPL-2.0": ("mozilla public license", "2.0"),
    "GPL-3": ("gnu general public license", "version 3"),
}
# The same inside of a file with more in it.
APACHE = re.compile(r"^ *Apache License\s+Version 2.0, January 2004.*?END OF TERMS AND CONDITIONS$"
                    r"(\s+APPENDIX: How to apply.*?limitations under the License\.$)?", re.DOTALL | re.MULTILINE)  # fmt: skip
LICENCE_FILE = re.compile(r"(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)

INTRODUCTION = """\
taktbus: field buses to the cloud, on time.

Copyright 2026 The taktbus authors

Licensed under either of the Apache License, Version 2.0 (on Debian systems in
/usr/share/common-licenses/Apache-2.0) or the MIT licence, at your option:

{mit}

The program contains the Rust standard library (Copyright The Rust Project
contributors, MIT or Apache-2.0) and the crates below, each with the licence that
its authors have declared, unchanged. Their sources are at crates.io, where each is
published under its name and version; the complete list with checksums is the
bill of materials beside this file (sbom.cdx.json).
Texts of the Apache License 2.0, of the Mozilla Public License 2.0 (crates of which are
in the program unchanged) and of the GNU General Public License 3 (which one crate
offers as an alternative to MIT, and which is not made use of) are not repeated here:
on Debian systems they are in /usr/share/common-licenses.
"""


def linked(metadata):
    """The packages that are linked into the program, without itself, by name and version.

    >>> normal, build = [{"kind": None}], [{"kind": "build"}]
    >>> nodes = [{"id": "us", "deps": [{"pkg": "a", "dep_kinds": normal}, {"pkg": "b", "dep_kinds": build}]},
    ...          {"id": "a", "deps": [{"pkg": "c", "dep_kinds": build + normal}, {"pkg": "m", "dep_kinds": normal}]},
    ...          {"id": "b", "deps": [{"pkg": "d", "dep_kinds": normal}]}]
    >>> nodes += [{"id": id, "deps": []} for id in "cdm"]
    >>> targets = {"m": [{"kind": ["proc-macro"]}]}
    >>> packages = [{"id": id, "name": id, "version": "1", "targets": targets.get(id, [])} for id in ("us", *"dcbma")]
    >>> [each["id"] for each in linked({"resolve": {"root": "us", "nodes": nodes}, "packages": packages})]
    ['a', 'c']
    """
    packages = {each["id"]: each for each in metadata["packages"]}
    nodes = {each["id"]: each for each in metadata["resolve"]["nodes"]}
    root = metadata["resolve"]["root"]
    found, open_ids = set(), [root]
    while open_ids:
        for dep in nodes[open_ids.pop()]["deps"]:
            is_macro = any("proc-macro" in target["kind"] for target in packages[dep["pkg"]]["targets"])
            if dep["pkg"] not in found and not is_macro and any(kind["kind"] is None for kind in dep["dep_kinds"]):
                found.add(dep["pkg"])
                open_ids.append(dep["pkg"])
    return sorted((packages[each] for each in found), key=lambda each: (each["name"], each["version"]))


def metadata(target):
    command = ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)


def split(text):
    """A licence text as its copyright lines and the rest, with spaces evened out: so that those of many crates are one.

    >>> split("MIT License\\n\\nCopyright (c) 2020  A. Author\\nCopyright 2021 B\\n\\nPermission is\\n   granted.\\n")
    (('Copyright (c) 2020 A. Author', 'Copyright 2021 B'), 'MIT License\\n\\nPermission is\\ngranted.')
    """
    lines = [" ".join(line.split()) for line in text.replace("\f", "\n").splitlines()]
    notices = [line for line in lines if re.match(r"(copyright|©|\(c\)) ?.*[\w)]", line, re.IGNORECASE)]
    # "copyright notice and this permission notice …" is a wrapped line of the licence itself.
    notices = [line for line in notices if re.search(r"\(c\)|©|\d{4}|copyright [A-Z]", line)]
    rest = "\n".join(line for line in lines if line not in notices)
    return tuple(dict.fromkeys(notices)), re.sub(r"\n{2,}", "\n\n", rest).strip()


def is_common(text):
    """Is it the text of a licence that every Debian has?

    >>> is_common("Apache License\\n  Version 2.0, January 2004\\n"), is_common("MIT License\\n")
    (True, False)
    """
    start = " ".join(text[:600].lower().split())
    return any(all(word in start for word in words) for words in COMMON.values())


def texts(package):
    """The licence files of a crate, but for the common ones."""
    folder = Path(package["manifest_path"]).parent
    named = [folder / package["license_file"]] if package["license_file"] else []
    for path in sorted({*named, *(each for each in folder.iterdir() if LICENCE_FILE.match(each.name))}):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            if not is_common(text):
                yield APACHE.sub("[the Apache License 2.0: /usr/share/common-licenses/Apache-2.0]", text)


def copyright():
    crates = {(each["name"], each["version"]): each for target in TARGETS for each in linked(metadata(target))}
    by_text = defaultdict(list)
    out = [INTRODUCTION.format(mit=split((ROOT / "LICENSE-MIT").read_text())[1])]
    for (name, version), package in sorted(crates.items()):
        out.append(f"{name} {version}: {package['license'] or 'see below'}")
        for text in texts(package):
            notices, rest = split(text)
            by_text[rest].append((f"{name} {version}", notices))
    for rest, users in sorted(by_text.items(), key=lambda item: (-len(item[1]), item[1][0])):
        out.append("\n" + "-" * 79)
        for crate, notices in users:
            out.append("\n    ".join([crate + ":", *notices]) if notices else crate)
        out += ["", rest]
    return "\n".join(out) + "\n"


def sbom(target):
    described = metadata(target)
    packages = linked(described)
    us = next(each for each in described["packages"] if each["id"] == described["resolve"]["root"])
    checksums = {}
    for block in (ROOT / "Cargo.lock").read_text().split("[[package]]"):
        found = dict(re.findall(r'^(name|version|checksum) = "([^"]+)"', block, re.MULTILINE))
        checksums[found.get("name"), found.get("version")] = found.get("checksum")

    def purl(each):
        return f"pkg:cargo/{each['name']}@{each['version']}"

    def component(each):
        made = {"type": "library", "bom-ref": purl(each), "name": each["name"], "version": each["version"], "purl": purl(each)}
        if checksum := checksums.get((each["name"], each["version"])):
            made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        if each["license"]:
            made["licenses"] = [{"expression": each["license"].replace("/", " OR ")}]
        return made

    refs = {each["id"]: purl(each) for each in [us, *packages]}
    nodes = {each["id"]: each["deps"] for each in described["resolve"]["nodes"]}
    dependencies = [
        {"ref": ref, "dependsOn": sorted({refs[dep["pkg"]] for dep in nodes[id] if dep["pkg"] in refs})}
        for id, ref in refs.items()
    ]
    content = [component(each) for each in packages]
    # The same crates give the same number, so that two builds give the same file.
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([purl(us), target, content], sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": component(us) | {"type": "application"},
            "properties": [{"name": "taktbus:target", "value": target}],
        },
        "components": content,
        "dependencies": sorted(dependencies, key=lambda each: each["ref"]),
    }


def main(what="", *arguments):
    if what == "copyright" and not arguments:
        print(copyright(), end="")
    elif what == "sbom" and arguments and arguments[0] in TARGETS:
        print(json.dumps(sbom(arguments[0]), indent=1, ensure_ascii=False))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONIOENCODING", "utf-8")
    sys.exit(main(*sys.argv[1:]))
