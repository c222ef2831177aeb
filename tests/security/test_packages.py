"""What the core needs: free licences, written down, and no known hole that nobody looked at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security import licences

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/licences-packages.md"
ACCEPTED = ROOT / "requirements/vulnerabilities.txt"


@pytest.fixture(scope="module")
def core() -> list[licences.Package]:
    return licences.core()


def test_the_closure_is_followed_without_extras(core: list[licences.Package]) -> None:
    names = {p.name for p in core}
    assert {"torch", "transformers", "prefect", "pyarrow", "numpy", "sympy", "anyio"} <= names
    assert not names & {"coqui-tts", "piper-tts", "espeakng-loader", "pytest", "lhotse", "ray", "salad-speech"}


def test_no_licence_of_the_core_binds_what_is_built_on_it(core: list[licences.Package]) -> None:
    assert {p.name: p.licence for p in core if not licences.is_free(p.licence)} == {}


BINDING = ("GNU General Public License v2 (GPLv2)", "AGPL-3.0", "LGPL-2.1", "UNKNOWN", "CC-BY-NC-4.0",
           "Other/Proprietary License", "MIT AND GPL-2.0-only", "Apache-2.0; GPL-2.0", "Limited permission", "")  # fmt: skip
FREE = ("MIT", "MIT License", "Apache-2.0", "Apache Software License", "BSD-3-Clause AND MIT",
        "MPL-2.0 AND (Apache-2.0 OR MIT)", "GPL-2.0-only OR MIT", "The Unlicense (Unlicense)", "3-Clause BSD")  # fmt: skip


@pytest.mark.parametrize("licence", BINDING)
def test_what_is_not_free_enough(licence: str) -> None:
    assert not licences.is_free(licence)


@pytest.mark.parametrize("licence", FREE)
def test_what_is(licence: str) -> None:
    assert licences.is_free(licence)


def test_the_page_names_every_package_of_the_core(core: list[licences.Package]) -> None:
    """`make licences` writes it. Some packages are needed on some platforms only: those of another one may stand there too."""
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {p.name: rows.get(p.name) for p in core} == {p.name: p.licence for p in core}, "run `make licences`"


@pytest.mark.slow
def test_no_pinned_package_has_a_hole_that_nobody_looked_at() -> None:
    """pip-audit on the pinned versions; what it finds must be in requirements/vulnerabilities.txt, with a reason."""
    if not os.environ.get("SALAD_AUDIT"):
        pytest.skip("what is known of packages today says nothing of the program: `make audit`")
    pytest.importorskip("pip_audit")
    asked = [sys.executable, "-m", "pip_audit", "--requirement", str(ROOT / "requirements/constraints.txt"), "--no-deps",
             "--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "20"]  # fmt: skip
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("the advisory service did not answer in 4 minutes")
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        pytest.skip(f"the advisory service cannot be reached: {' '.join(done.stderr.split())[-200:]}")
    unheard = [p["skip_reason"] for p in found if "skip_reason" in p]
    if len(unheard) > len(found) / 2:  # a mirror without the JSON API: pip-audit then calls everything sound
        pytest.skip(f"the advisory service knows nothing of {len(unheard)} of {len(found)} packages here: {unheard[0]}")
    known = {line.split()[0] for line in ACCEPTED.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != "#"}
    holes = {f"{p['name']} {p['version']}: {v['id']}": v["description"][:200] for p in found for v in p.get("vulns", [])
             if not {v["id"], *v.get("aliases", [])} & known}  # fmt: skip
    assert holes == {}


def test_every_accepted_hole_has_a_reason() -> None:
    lines = [x for x in ACCEPTED.read_text(encoding="utf-8").splitlines() if x.strip() and not x.startswith("#")]
    assert all(re.match(r"(GHSA|PYSEC|CVE)-\S+ \S+ +\S.{20,}", x) for x in lines), "ID package reason"
