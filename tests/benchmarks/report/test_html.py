"""The page for a browser: complete, self-contained, escaped, without texts, and working when opened."""

import html as entities
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from msgspec import structs

import benchmarks
from benchmarks.records import Report, as_report, plain, tidied
from benchmarks.report import html
from benchmarks.report.files import read_side_by_side
from benchmarks.report.pictures import PICTURES
from benchmarks.selection import Objective, Selection

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = '<script>alert("x")</script>'


class Elements(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def complete(make):
    """All that a report can hold: passing, inconclusive, failing, refused and crashed, a baseline."""
    return complete_document(make)


@pytest.fixture(scope="module")
def page(make) -> str:
    """Its page. Drawing it takes a second."""
    return html.side_by_side(complete_document(make))


def complete_document(make) -> Report:
    levels = (make.level(1, 60, 20), make.level(32, 100, 350))
    found = make.document(
        make.variant("fp32", levels=levels),
        make.variant("int8", speed=4, drop=(-0.004, 0.005), levels=(make.level(32, 380, 90),)),
        make.variant("bf16", speed=2.5, drop=(-0.001, 0.002)),
        make.variant("pruned", speed=6, drop=(-0.004, 0.016)),
        make.variant("shallow", speed=9, drop=(0.02, 0.05)),
        make.variant("refused", speed=7, equal=False),
        make.variant("crashed", error="signal SIGSEGV"),
        complete=True,
        baselines=[
            make.baseline("hf-pipeline", speed=0.9),
            make.served_baseline("fastapi-pipeline", make.level(32, 40, 800)),
        ],
        bound=make.bound(),
    )
    return tidied(found)


def test_every_row_and_every_section_is_on_the_page(complete, page: str) -> None:
    for row in complete.rows:
        assert f'data-name="{row.name}"' in page
    ids = [attributes["id"] for tag, attributes in Elements(page).found if tag == "section"]
    assert ids == [
        "variants",
        "pictures",
        "verdicts",
        "sameness",
        "decisions",
        "flips",
        "calibration",
        "functional",
        "lengths",
        "speed",
        "load",
        "bound",
        "proof",
        "provenance",
    ]
    assert page.count('<svg xmlns="http://www.w3.org/2000/svg"') == len(PICTURES)


def test_the_headline_is_the_fastest_that_passes_and_what_is_proven(complete, page: str) -> None:
    assert (
        "<h1>int8: 4.0 times as fast as fp32, and still the same classifier"
        " (a rehearsal on synthetic text)</h1>" in page
    )
    assert "a macro-F1 drop of 0.01 or more is ruled out on 2,000 gate texts" in page
    reasons = {"bf16": "chosen: because", "fp32": "chosen: nothing else keeps the objective"}
    chosen = Selection(1, "bf16", None, Objective(), complete.run.id, [], reasons)
    of_bf16 = html.side_by_side(complete, chosen)
    assert "<h1>bf16: 2.5 times" in of_bf16
    assert "real texts/s in process, bf16" in of_bf16, "its figures, not those of the fastest"
    stays = structs.replace(chosen, selected="fp32")
    assert "<h1>fp32 stays</h1>" in html.side_by_side(complete, stays)
    other = structs.replace(chosen, run="another")
    assert html.side_by_side(complete, other) == page


def test_reasons_say_what_the_data_could_have_shown(page: str) -> None:
    assert "A new gate of about 5,200 labelled texts would settle it" in page
    assert "It is worse by more than 0.01" in page
    assert "The check at export refused it" in page


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    for tag, attributes in Elements(page).found:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert "src" not in attributes, tag
        if tag != "a":
            assert not str(attributes.get("href", "")).startswith(("http", "//")), tag
        assert not any(name.startswith("on") for name in attributes), tag
    assert "url(http" not in page
    assert "@import" not in page


def test_only_the_scripts_of_the_page_may_run(page: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    policy = entities.unescape(policy)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 2
    assert re.findall(r"'sha256-[^']+'", policy) == [html._hash(script) for script in scripts]
    assert "script-src 'unsafe-inline'" not in policy
    assert "default-src 'none'" in policy


def test_what_comes_from_a_report_is_escaped(complete) -> None:
    text = json.dumps(plain(complete)).replace("signal SIGSEGV", "ATTACK").replace("slur", "ATTACK")
    document = as_report(json.loads(text.replace("ATTACK", json.dumps(ATTACK)[1:-1])))
    document.data.labels = ["not-hate", ATTACK]
    document.data.spec = ATTACK
    for variant in document.variants:
        for parity in variant.parity.values():
            parity.flips = {way.replace("hate", ATTACK): n for way, n in parity.flips.items()}
            parity.flip_rates = {way.replace("hate", ATTACK): rate for way, rate in parity.flip_rates.items()}
    page = html.side_by_side(document)
    assert "&lt;script&gt;alert" in page
    for shown in (page, *(html.variant_page(document.of(variant)) for variant in document.variants)):
        assert "<script>alert" not in shown


def test_a_link_is_one_only_where_the_report_names_a_page(complete) -> None:
    complete.baselines[0].summary = "a <b>baseline</b>"
    page = html.side_by_side(complete)
    assert '<a href="https://example.org/docs">a &lt;b&gt;baseline&lt;/b&gt;</a>' in page
    complete.baselines[0].documentation = "javascript:alert(1)"
    assert 'href="javascript' not in html.side_by_side(complete)


def test_texts_are_shown_only_when_they_are_handed_over(complete, page: str) -> None:
    flip = complete.variants[1].flipped[0]
    texts = {(flip.split, flip.row): "the very words"}
    assert "the very words" not in page
    shown = html.side_by_side(complete, texts=texts)
    assert "the very words" in shown
    assert "do not share this page" in shown


def test_an_older_report_has_a_page_without_what_it_lacks() -> None:
    published = Path(benchmarks.__file__).with_name("published")
    document = read_side_by_side(published / "full-size.json")
    page = html.side_by_side(document)
    ids = {attributes["id"] for tag, attributes in Elements(page).found if tag == "section"}
    assert not ids & {"sameness", "flips", "functional", "lengths"}
    assert ids >= {"variants", "pictures", "bound", "provenance"}


def test_random_weights_are_not_called_the_same_classifier(make) -> None:
    document = make.document(
        make.variant("fp32", drop=None), make.variant("int8", speed=4, drop=None), complete=True
    )
    document.data.labels_meaningful, document.data.spec = False, "csv:mine.csv"
    page = html.side_by_side(document)
    assert "found equal by the check at export</h1>" in page
    assert "rehearsal" not in page
    assert "still the same classifier" not in page


@pytest.mark.parametrize("names", [("fp32", "int8"), ("int8",)])
def test_a_report_of_failures_alone_is_a_page(make, names) -> None:
    page = html.side_by_side(make.document(*(make.variant(name, error="no memory") for name in names)))
    assert "Nothing could be measured" in page
    assert page.count("failed during latency: no memory") == len(names)
    assert "<svg" not in page


def test_where_nothing_passes_fp32_stays(make) -> None:
    page = html.side_by_side(
        make.document(make.variant("fp32"), make.variant("a", speed=3, drop=(-0.01, 0.03)))
    )
    assert "<h1>No variant passes: fp32 stays</h1>" in page
    assert "1 inconclusive" in page


def test_a_variant_has_a_page_of_its_own(complete) -> None:
    for variant in complete.variants:
        page = html.variant_page(complete.of(variant))
        assert f"<h1>{variant.name}: " in page
    assert "It failed during latency: signal SIGSEGV" in page


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_it_sorts_filters_and_does_not_scroll_sideways(page: str, tmp_path, width: int) -> None:
    seen = look(page, width, tmp_path)
    assert seen["errors"] == []
    assert seen["ready"] == "yes"
    assert seen["scroll"] <= width
    assert seen["sorted"] == ["descending", "shallow"]
    assert seen["again"][0] == "ascending"
    assert seen["passing"] == ["bf16", "fp32", "int8"]
    assert seen["named"] == ["refused"]
    assert seen["toggled"] == "dark"


def look(page: str, width: int, folder: Path) -> dict:
    """What a script sees that uses the page as a person would, in a frame of that width. The frame is of the
    same origin as its surroundings, so that the page itself needs nothing for its test."""
    driver = """
      const frame = document.querySelector("iframe"), errors = [];
      frame.addEventListener("load", () => {
        const page = frame.contentDocument, root = page.documentElement;
        const rows = () => [...page.querySelectorAll("#rows tbody tr:not([hidden])")];
        const names = () => rows().map((row) => row.dataset.name);
        const heads = [...page.querySelectorAll("#rows thead th")];
        const speed = heads.find((head) => head.textContent.includes("real texts/s"));
        const seen = {errors, ready: root.dataset.ready, scroll: root.scrollWidth};
        speed.querySelector("button").click();
        seen.sorted = [speed.getAttribute("aria-sort"), names()[0]];
        speed.querySelector("button").click();
        seen.again = [speed.getAttribute("aria-sort"), names()[0]];
        page.getElementById("passes").click();
        page.getElementById("baselines").click();
        seen.passing = names().sort();
        page.getElementById("passes").click();
        page.getElementById("filter").value = "REFUSED";
        page.getElementById("filter").dispatchEvent(new frame.contentWindow.Event("input"));
        seen.named = names();
        page.querySelector(".toggle").click();
        seen.toggled = root.dataset.theme;
        document.getElementById("seen").textContent = JSON.stringify(seen);
      });
      addEventListener("message", (event) => errors.push(String(event.data)));
      frame.srcdoc = PAGE;
    """
    # Errors are reported by an event that is dispatched before the page's own scripts run.
    told = "<script>addEventListener('error', (event) => parent.postMessage(event.message, '*'))</script>"
    inside = json.dumps(told + page).replace("</", "<\\/")
    driver = driver.replace("PAGE", inside)
    frame = f'<iframe style="width:{width}px;height:900px;border:0"></iframe>'
    (folder / "frame.html").write_text(
        f'<!doctype html><meta charset="utf-8">{frame}<pre id="seen"></pre><script>{driver}</script>',
        encoding="utf-8",
    )
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "frame.html").as_uri()], check=True, capture_output=True, text=True, timeout=120
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:]
    return json.loads(entities.unescape(found[1]))
