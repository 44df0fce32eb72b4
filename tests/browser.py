"""Open built pages in headless Chromium: console errors, outside requests, layout, screenshots.

    python tests/browser.py --shots DIR [PAGE ...]      # default: every page of _build/html/book

The browser is driven over its debugging protocol; name lookups are switched off, so nothing outside can answer.
"""

import argparse
import asyncio
import base64
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from tornado.websocket import websocket_connect

HTML = Path(__file__).parents[1] / "_build" / "html"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-port=0",
)
LOOK = """({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  broken: [...document.images].filter(i => i.getAttribute("loading") !== "lazy" && !i.naturalWidth).map(i => i.src),
  handlers: [...document.querySelectorAll("[onerror]")].map(e => e.outerHTML),
  no_alt: [...document.querySelectorAll("article img")].filter(i => !i.alt.trim()).map(i => i.src),
  formulas: document.querySelectorAll("article .math").length,
  drawn: document.querySelectorAll("article mjx-container").length,
  // what leaves the column without a scroll bar of its own
  wide: [...document.querySelectorAll("article *")].filter(e => {
    if (e.getBoundingClientRect().right <= innerWidth + 1 || e.closest("mjx-assistive-mml, .onlyprint")) return false;
    for (let p = e.parentElement; p; p = p.parentElement)
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(p).overflowX) && p.tagName != "BODY") return false;
    return true;
  }).map(e => e.tagName + "." + e.className).slice(0, 5),
})"""

#: The accessibility checker, and what is kept of its findings: rule, how bad, and where.
AXE = (resources.files("axe_core_python") / "axe.min.js").read_text("utf-8") + "; 1"
BARRIERS = """axe.run(document, {resultTypes: ["violations"]}).then(found => found.violations
  .filter(v => ["serious", "critical"].includes(v.impact))
  .map(v => `${v.id} (${v.impact}, ${v.nodes.length} times): ` +
    v.nodes.slice(0, 3).map(n => n.target.join(" ")).join(" | ")))"""


@dataclass
class Visit:
    """What was seen on one page at one width."""

    page: str
    width: int
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    look: dict = field(default_factory=dict)
    text: str = ""
    shot: bytes = b""
    barriers: list[str] = field(default_factory=list)


def find_browser() -> str | None:
    """Path of Chromium or Chrome, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


@contextmanager
def browser():
    """Start a browser with an empty profile; yields the address of its only tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [find_browser(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = Path(profile) / "DevToolsActivePort"
            for _ in range(300):
                if port.exists() and port.read_text().strip():
                    break
                time.sleep(0.1)
            number = port.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/json/list") as reply:
                tabs = json.load(reply)
            yield next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        finally:
            process.terminate()
            process.wait(20)


class Tab:
    """One tab, spoken to by the debugging protocol."""

    def __init__(self, socket):
        self.socket, self.last, self.events = socket, 0, []

    async def call(self, method, **parameters):
        self.last += 1
        await self.socket.write_message(json.dumps({"id": self.last, "method": method, "params": parameters}))
        while True:
            message = json.loads(await asyncio.wait_for(self.socket.read_message(), 30))
            if message.get("id") == self.last:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    async def evaluate(self, script):
        result = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return result["result"].get("value")

    async def visit(self, page: Path, width: int, *, dark: bool, shot: bool, axe: bool = False) -> Visit:
        self.events.clear()
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.call("Emulation.setEmulatedMedia", features=scheme)
        await self.call("Page.navigate", url=page.as_uri())
        for _ in range(100):
            if await self.evaluate("document.readyState == 'complete' && location.href != 'about:blank'"):
                break
            await asyncio.sleep(0.05)
        await self.evaluate("window.MathJax?.startup?.promise.then(() => 1)")
        await asyncio.sleep(0.3)
        seen = Visit(f"{page.parent.name}/{page.name}", width, look=await self.evaluate(LOOK))
        seen.text = await self.evaluate("document.body.textContent")
        if axe:
            await self.evaluate(AXE)
            seen.barriers = await self.evaluate(BARRIERS)
        if shot:
            height = await self.evaluate("document.documentElement.scrollHeight")
            await self.call(
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=max(900, min(height, 8000)),
                deviceScaleFactor=1,
                mobile=False,
            )
            await asyncio.sleep(0.3)
            seen.shot = base64.b64decode((await self.call("Page.captureScreenshot"))["data"])
        for event in self.events:
            what, values = event.get("method"), event.get("params", {})
            if what == "Runtime.exceptionThrown":
                details = values["exceptionDetails"]
                seen.errors.append(details.get("exception", {}).get("description") or details["text"])
            elif what == "Runtime.consoleAPICalled" and values["type"] == "error":
                seen.errors.append(
                    " ".join(str(a.get("value", a.get("description"))) for a in values["args"])
                )
            elif what == "Log.entryAdded" and values["entry"]["level"] == "error":
                seen.errors.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
            elif what == "Network.requestWillBeSent":
                url = values["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:", "about:")):
                    seen.outside.append(url)
        return seen


def look_at(pages, widths=(1280, 390), *, dark=False, shot=False, axe=False) -> list[Visit]:
    """Visit every page at every width; with `axe`, look for what shuts readers out."""

    async def go(address):
        tab = Tab(await websocket_connect(address, max_message_size=2**28))
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.call(f"{domain}.enable")
        seen = [await tab.visit(Path(p), w, dark=dark, shot=shot, axe=axe) for p in pages for w in widths]
        tab.socket.close()
        await asyncio.sleep(0.1)  # until it is
        return seen

    with browser() as address:
        return asyncio.run(go(address))


def use(page: Path, steps, *, width: int = 1280) -> tuple[Visit, list]:
    """Open a page without a network and do one thing after the other there, each a script; return their values."""

    async def go(address):
        tab = Tab(await websocket_connect(address, max_message_size=2**28))
        for domain in ("Page", "Runtime", "Network", "Log"):
            await tab.call(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        await tab.call("Network.emulateNetworkConditions", **offline)
        before = await tab.visit(page, width, dark=False, shot=False)
        values = []
        for step in steps:
            if step.startswith("key:"):
                for kind in ("keyDown", "keyUp"):
                    key = step.removeprefix("key:")
                    text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
                    code = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}[
                        key
                    ]
                    await tab.call(
                        "Input.dispatchKeyEvent",
                        type=kind,
                        key=key,
                        code=key,
                        windowsVirtualKeyCode=code,
                        **text,
                    )
            else:
                values.append(await tab.evaluate(step))
        before.errors += [
            str(e["params"]) for e in tab.events if e.get("method") == "Runtime.exceptionThrown"
        ]
        tab.socket.close()
        await asyncio.sleep(0.1)  # until it is
        return before, values

    with browser() as address:
        return asyncio.run(go(address))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--shots", type=Path, help="folder for screenshots")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--axe", action="store_true", help="look for what shuts readers out")
    options = parser.parse_args()
    if not find_browser():
        sys.exit("No Chromium or Chrome found.")
    pages = [p.absolute() for p in options.pages] or sorted((HTML / "book").rglob("*.html"))
    bad = 0
    for seen in look_at(pages, dark=options.dark, shot=bool(options.shots), axe=options.axe):
        trouble = {"console": seen.errors, "outside": seen.outside, "axe": seen.barriers, **seen.look}
        print(f"{seen.page} at {seen.width}: " + ", ".join(f"{k}: {v}" for k, v in trouble.items() if v))
        bad += bool(seen.errors or seen.outside)
        if options.shots:
            options.shots.mkdir(parents=True, exist_ok=True)
            (
                options.shots
                / f"{seen.page.removesuffix('.html').replace('/', '-')}-{seen.width}{'-dark' * options.dark}.png"
            ).write_bytes(seen.shot)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
