"""How fast the page is in a real Chromium: its first load, and its tables and curves of 100,000.

    PYTHONPATH=. python benchmarks/page.py [--rows 100000] [--points 100000] [--rounds 5]

A server of its own on an empty home. The first load is `/app/` in a browser that has been nowhere: its bytes as they come
over the wire against the limit of 300 kB, and the time from the navigation until it can be used, median of the rounds,
against the limit of one second. It can be used when the heading stands, the first button of the content is what a click
there would meet, and the last task of over 50 ms that began within half a second of it has ended. Frames are Chromium's
own (`requestAnimationFrame`): the time between two while something scrolls by itself, a few rows a frame (as a wheel
does) or the whole table in 300 frames (as a dragged bar does). A redraw is the time from a click to the frame after it.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.page.furnished import ended_run, show_evaluation
from tests.server import Server, serving

LIMIT_BYTES, LIMIT_MS = 300_000, 1_000
PATIENCE_MS = 180_000
USABLE = """{
  const tasks = [];
  new PerformanceObserver((list) => tasks.push(...list.getEntries())).observe({ type: 'longtask', buffered: true });
  let control = null;
  const look = () => {
    const button = document.querySelector('main h1') && document.querySelector('main button:not([disabled])');
    if (button) {
      const box = button.getBoundingClientRect();
      const met = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
      if (met && button.contains(met)) { control = performance.now(); return; }
    }
    requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
  window.usable = () => {
    if (control === null || performance.now() < control + 1500) return null;
    let end = control;
    for (const task of tasks.sort((one, other) => one.startTime - other.startTime))
      if (task.startTime <= end + 500) end = Math.max(end, task.startTime + task.duration);
    const [paint] = performance.getEntriesByName('first-contentful-paint');
    return { control, end, paint: paint ? paint.startTime : null };
  };
}"""
SCROLLED = """async ([place, step]) => {
  const box = document.querySelector(place), frame = () => new Promise(requestAnimationFrame);
  const each = step ?? (box.scrollHeight - box.clientHeight) / 300;
  const times = [], nodes = [];
  let last = await frame();
  for (let n = 0; n < 300; n++) {
    box.scrollTop += each;
    const now = await frame();
    times.push(now - last);
    nodes.push(box.querySelectorAll('[role=row], [role=listitem]').length);
    last = now;
  }
  return { times, nodes: Math.max(...nodes), px: each, height: box.scrollHeight };
}"""
REDRAWN = """async () => {
  const found = {};
  const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  for (const [label, count] of [['Zoom in', 8], ['Move right', 20], ['Move left', 20], ['Zoom out', 8], ['Show all', 4]]) {
    const button = document.querySelector(`button[aria-label="${label}"]`);
    for (let n = 0; n < count; n++) {
      await drawn();
      const before = performance.now();
      button.click();
      const called = performance.now();
      await drawn();
      (found[label] ??= []).push([called - before, performance.now() - before]);
    }
  }
  return found;
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise SystemExit("no Chromium on this machine")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the start")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        first_load(browser, server, asked.rounds)
        page = _page(browser, server)
        table(page, server, asked.rows)
        curve(page, server, asked.points)
        evaluation(_page(browser, server), asked.rows)
        browser.close()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


def first_load(browser: Browser, server: Server, rounds: int) -> None:
    """Bytes and times of `/app/` where nothing of it is kept yet."""
    sizes: dict[str, int] = {}
    found = []
    for _ in range(rounds):
        page = _page(browser, server)
        page.add_init_script(USABLE)
        wire = page.context.new_cdp_session(page)
        wire.send("Network.enable")
        names: dict[str, str] = {}
        wire.on(
            "Network.responseReceived",
            lambda told, names=names: names.update({told["requestId"]: told["response"]["url"]}),
        )
        wire.on(
            "Network.loadingFinished",
            lambda told, names=names: sizes.update({names[told["requestId"]]: told["encodedDataLength"]}),
        )
        page.goto("/app/")
        while (
            usable := page.evaluate("window.usable()")
        ) is None:  # waiting in the page would need eval, which is refused
            page.wait_for_timeout(100)
        found.append(usable)
        page.context.close()
    own = {url: size for url, size in sizes.items() if "/app/" in url}
    total = sum(own.values())
    print(
        f"first load: {total:,} bytes in {len(own)} files, headers included (limit {LIMIT_BYTES:,}: {total / LIMIT_BYTES:.2f})"
    )
    for key, label in (("paint", "first paint"), ("control", "first button can be clicked"), ("end", "can be used")):
        times = sorted(each[key] for each in found if each[key] is not None)
        print(f"  {label}: median {statistics.median(times):.0f} ms, {times[0]:.0f} .. {times[-1]:.0f}", end="")
        print(f" (limit {LIMIT_MS}: {statistics.median(times) / LIMIT_MS:.2f})" if key == "end" else "")


def table(page: Page, server: Server, rows: int) -> None:
    """An uploaded dataset of so many rows, from its first to its last."""
    text = "".join(json.dumps({"instruction": f"question {n}", "output": f"answer {n}"}) + "\n" for n in range(rows))
    sent = server.post("/api/finetune/upload-dataset", files={"file": ("long.jsonl", text)})
    sent.raise_for_status()
    page.goto(f"/app/datasets/{sent.json()['id']}")
    expect(page.locator(".rows-row").first).to_contain_text("question 0", timeout=PATIENCE_MS)
    _scroll(page, f"table of {rows:,} rows", ".rows")
    expect(page.locator(".rows-row").last).to_contain_text(f"question {rows - 1}", timeout=PATIENCE_MS)


def curve(page: Page, server: Server, points: int) -> None:
    """A run of so many points, zoomed and moved."""
    page.goto(f"/app/runs/{ended_run(server, points)}")
    expect(page.locator(f".chart[aria-label*='{points} points']").first).to_be_visible(timeout=PATIENCE_MS)
    print(f"curve of {points:,} points, redraws (the call alone; until the frame after it)")
    for label, times in page.evaluate(REDRAWN).items():
        called, drawn = ([each[place] for each in times] for place in (0, 1))
        print(f"  {label}: {_spread(called)}; {_spread(drawn)}")


def evaluation(page: Page, rows: int) -> None:
    """An evaluation of so many questions."""
    show_evaluation(page, rows)
    expect(page.get_by_role("listitem").first).to_be_visible(timeout=PATIENCE_MS)
    _scroll(page, f"evaluation of {rows:,} questions", "[role=list][tabindex]")


def _scroll(page: Page, what: str, place: str) -> None:
    print(f"{what}, 300 frames each")
    for label, step in (("100 px a frame", 100), ("all of it", None)):
        page.locator(place).evaluate("(box) => box.scrollTo(0, 0)")
        found: dict[str, Any] = page.evaluate(SCROLLED, [place, step])
        late = sum(1 for each in found["times"] if each > 50)
        print(f"  {label}: {_spread(found['times'])}; over 50 ms: {late}; rows in the page: {found['nodes']} at most")


def _page(browser: Browser, server: Server) -> Page:
    context = browser.new_context(base_url=server.url, locale="en-US", viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    return context.new_page()


def _spread(times: list[float]) -> str:
    cuts = statistics.quantiles(times, n=20, method="inclusive")
    return f"p50 {cuts[9]:.1f} ms, p95 {cuts[18]:.1f}, worst {max(times):.1f}"


if __name__ == "__main__":
    main()
