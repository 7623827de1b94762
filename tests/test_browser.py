"""TensorBoard itself on runs with all callbacks: what it serves of each kind, and what a browser shows of it."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from forked import Child

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ALL = "callbacks=[default,look,embeddings,samples,graph]"
# The text of a page, those of its components' own trees and of its frames included.
TEXT = """(function text(node) {
    if (node.nodeType === 3) return node.textContent;
    if (['SCRIPT', 'STYLE'].includes(node.nodeName)) return '';
    return [node.shadowRoot, node.contentDocument?.body, ...node.childNodes].filter(Boolean).map(text).join(' ');
})(document.body)"""
SHOWN = {  # for each tab, and what is typed into its filter
    "scalars&tagFilter=throughput": ["throughput/samples_per_s"],
    "custom_scalars": ["training and validation", "accuracy"],
    "images&tagFilter=inputs|mistakes|confusion": [
        "figures/inputs",
        "figures/mistakes",
        "figures/confusion_matrix/val",
    ],
    "graphs": ["Main Graph"],
    "distributions&tagFilter=weights.layers.1": ["weights/layers.1.weight"],
    "histograms&tagFilter=gradients.layers.1": ["gradients/layers.1.weight"],
    "text&tagFilter=config|transcripts": ["config/text_summary", "samples/transcripts/val"],
    "pr_curves": ["pr_curve/3"],
    "audio": ["samples/clip_1/val"],
    "hparams": ["num_parameters"],
    "projector": ["target", "Points:"],
}

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of TensorBoard, on an image classification and a speech recognition."""
    place = tmp_path_factory.mktemp("runs")
    for name, data in (("digits", []), ("morse", ["data=morse", "data.size=60", "data.num_words=[1,1]"])):
        child = Child(place, ALL, "trainer.max_epochs=2", *data, f"output_dir=outputs/{name}")
        assert child.wait(300) == 0, child.text
    shutil.move(place / "outputs", place / "moved")  # nothing remembers where it was
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(place / "moved"), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = wait_for(f"http://localhost:{port}", lambda runs: len(runs) == 2, "/data/runs")
        # the projector begins to look when it is asked for the first time
        yield wait_for(url, lambda plugins: plugins["projector"]["enabled"], "/data/plugins_listing")
    finally:
        server.terminate()
        server.wait()


def wait_for(url, is_ready, path, seconds=90.0):
    """The address, once an answer is what it should be."""
    end = time.monotonic() + seconds
    while True:
        try:
            if is_ready(ask(url, path)):
                return url
        except OSError:
            pass
        assert time.monotonic() < end, f"{url}{path}"
        time.sleep(0.5)


def ask(url, path):
    with urllib.request.urlopen(url + path, timeout=30) as answer:
        content = answer.read()
    return json.loads(content) if answer.headers.get_content_type() == "application/json" else content


def test_every_plugin_serves_what_was_written(address):
    plugin = f"{address}/data/plugin"
    enabled = {name for name, about in ask(address, "/data/plugins_listing").items() if about["enabled"]}
    wanted = {"scalars", "custom_scalars", "images", "audio", "graphs", "distributions", "histograms", "text"}
    assert wanted | {"pr_curves", "hparams", "projector"} <= enabled
    assert ask(plugin, "/scalars/scalars?tag=loss/val&run=digits")
    assert {"digits", "morse"} == set(ask(plugin, "/scalars/tags"))  # no run for each curve
    picture = ask(plugin, "/images/images?tag=figures/inputs&run=digits&sample=0")[0]
    assert ask(plugin, f"/images/individualImage?{picture['query']}")[:4] == b"\x89PNG"
    sound = ask(plugin, "/audio/audio?tag=samples/clip_1/val&run=morse&sample=0")[0]
    assert ask(plugin, f"/audio/individualAudio?{sound['query']}")[:4] == b"RIFF"
    steps = [step for _, step, _ in ask(plugin, "/histograms/histograms?tag=weights/layers.1.weight&run=digits")]
    assert len(steps) == 2
    assert ask(plugin, "/distributions/distributions?tag=gradients/layers.1.weight&run=digits")
    assert b"MLP" in ask(plugin, "/graphs/graph?run=digits&conceptual=false")
    (curve,) = ask(plugin, "/pr_curves/pr_curves?tag=pr_curve/3&run=digits")["digits"]
    assert 0 < max(curve["recall"]) <= 1
    text = ask(plugin, "/text/text?tag=config/text_summary&run=digits")[0]["text"]
    assert "iolaus.model.mlp.MLP" in text
    charts = ask(plugin, "/custom_scalars/layout")["category"][0]["chart"]
    assert [chart["title"] for chart in charts][:2] == ["loss", "accuracy"]
    found = ask(plugin, f"/custom_scalars/scalars?tag={charts[0]['multiline']['tag'][0]}&run=digits")
    assert set(found["tag_to_events"]) == {"loss/train", "loss/val"}
    points = ask(plugin, "/projector/info?run=digits")["embeddings"][0]
    assert points["tensorShape"] == [180, 64]
    assert (
        len(ask(plugin, f"/projector/tensor?run=digits&name={points['tensorName'].replace(' ', '%20')}"))
        == 4 * 180 * 64
    )
    sprite = f"/projector/sprite_image?run=digits&name={points['tensorName'].replace(' ', '%20')}"
    assert ask(plugin, sprite)[:4] == b"\x89PNG"


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_browser_shows_every_tab(address, tmp_path):
    aiohttp = pytest.importorskip("aiohttp")
    port = free_port()
    quiet = "no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update disable-sync"
    options = [f"--{word}" for word in ("headless", *quiet.split())]
    place = [f"--user-data-dir={tmp_path}", f"--remote-debugging-port={port}", "--window-size=1400,1000"]
    browser = subprocess.Popen(
        [CHROMIUM, *options, *place, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(f"http://localhost:{port}", bool, "/json/list")
        (page,) = [p for p in ask(f"http://localhost:{port}", "/json/list") if p["type"] == "page"]
        missing = asyncio.run(look(aiohttp, page["webSocketDebuggerUrl"], address))
    finally:
        browser.terminate()
        browser.wait()
    assert not missing, missing


async def look(aiohttp, page, address):
    """Of each tab the words that did not appear, and the errors that the page reported."""
    missing = {}
    async with aiohttp.ClientSession() as session, session.ws_connect(page, max_msg_size=0) as socket_:
        count = 0

        async def call(method, **parameters):
            nonlocal count
            count += 1
            await socket_.send_json({"id": count, "method": method, "params": parameters})
            while True:
                answer = await socket_.receive_json()
                if answer.get("id") == count:
                    return answer["result"]

        for tab, words in SHOWN.items():
            await call("Page.navigate", url="about:blank")
            await call("Page.navigate", url=f"{address}/?darkMode=false#{tab}")
            left, text = words, ""
            for _ in range(60):
                await asyncio.sleep(0.5)
                found = await call("Runtime.evaluate", expression=TEXT, returnByValue=True)
                text = re.sub(r"\s+", " ", found["result"].get("value") or "")
                left = [word for word in words if word not in text]
                if not left:
                    break
            if left:
                missing[tab] = left, text[:500]
    return missing
