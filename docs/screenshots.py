"""Take the pictures under docs/images from a running demo: every page, zh and en, 1280 and 390 px wide.

make screenshots SERVER=http://127.0.0.1:8080 JOB=job_…      (needs Chromium: apt-get install chromium fonts-noto-cjk)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent / "images"
WIDTHS = {1280: 900, 390: 844}
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def main(server: str, job: str) -> None:
    """server: address of a demo that is up; job: the id whose job and statement pages are shown."""
    pages = {
        "overview": "/",
        "offers": "/offers",
        "jobs": "/jobs",
        "job": f"/jobs/{job}",
        "statement": f"/statements/jobs/{job}",
    }
    HERE.mkdir(exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for width, height in WIDTHS.items():
            for lang in ("zh", "en"):
                view = browser.new_context(
                    viewport={"width": width, "height": height}, locale=lang, color_scheme="light"
                )
                page = view.new_page()
                for name, path in pages.items():
                    page.goto(f"{server}{path}?lang={lang}", wait_until="load")
                    page.wait_for_timeout(300)
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    assert wide <= width, f"{name} is {wide} px wide on a screen of {width}"
                    page.screenshot(path=HERE / f"{name}-{lang}-{width}.png", full_page=True)
                view.close()
        browser.close()


if __name__ == "__main__":
    address = sys.argv[1]
    with urlopen(f"{address}/healthz") as answer:  # noqa: S310 - the address is the caller's own
        assert json.load(answer)["status"] == "ok"
    main(address, sys.argv[2])
