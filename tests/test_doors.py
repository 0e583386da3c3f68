"""Nobody gets in, nothing hangs, nothing lies: the started app.py as strangers meet it."""

import contextlib
import http.client
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import numpy
import pytest
from gradio import queueing
from PIL import Image
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from test_handlers import FakeEngine, settings
from test_page import ROOT, serving

from nag import presets
from nag.errors import Refused
from nag.media import uploads
from nag.page import clicks, handlers, layout, serve
from nag.page.gate import Audience, Origin
from nag.page.line import WAITING, Place
from nag.request import SETTINGS

API = "/gradio_api"
ANSWERED = r"hub cannot be reached|needs a GPU|accept it at"  # what follows when a picture is right


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("temporary files")


@pytest.fixture(scope="module")
def server(tmp_path_factory, home):
    with serving(tmp_path_factory, "app.py", "--port", env=environment(TMPDIR=str(home))) as url:
        yield url


def ask(server, path, body=None, **headers):
    """-> status, JSON (or text) of an answer."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None and not isinstance(body, bytes):
        body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"} | headers
    request = urllib.request.Request(server + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, text = answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read().decode()
    try:
        return status, json.loads(text)
    except ValueError:
        return status, text


def call(server, *data, name="compare"):
    """-> "complete" and the data, or "error" and the sentence, of a call of the API."""
    status, answer = ask(server, f"{API}/call/{name}", {"data": data})
    assert status == 200, answer
    with listen(server, answer["event_id"], name) as stream:
        return outcome(stream.read().decode())


def listen(server, event, name="compare"):
    return urllib.request.urlopen(f"{server}{API}/call/{name}/{event}", timeout=120)


def outcome(text):
    kind, data = re.findall(r"event: (complete|error)\ndata: (.*)", text)[-1]
    data = json.loads(data)
    return kind, data["error"] if kind == "error" else data


def upload(server, content, name="start.png"):
    """-> the path under which a file was uploaded."""
    body = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n--x--\r\n"
    )
    status, answer = ask(
        server, f"{API}/upload", body, Content_Type="multipart/form-data; boundary=x"
    )
    assert status == 200, answer
    return answer[0]


def picture(kind="PNG", size=(30, 20), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth=8, colour=2, rows=b"", extra=b""):
    """A PNG by hand: whatever it says of itself, the pixels are `rows`."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zipped():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", picture())
    return buffer.getvalue()


KONTEXT = {"preset": "flux-kontext"}
GREY = struct.pack(">HH", 20000, 65535)
TEXT_BOMB = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"x" * 50_000_000))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n"
NOT_PICTURES = {
    "html.png": (b"<html><script>alert(1)</script></html>", "not a picture that can be read"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "archive.png": (zipped(), "not a picture that can be read"),
    "program.png": (EPS, "not a picture that can be read"),
    "moving.gif": (picture("GIF"), "not a picture that can be read: give a PNG, JPEG or WebP"),
    "map.bmp": (picture("BMP"), "give a PNG, JPEG or WebP"),
    "scan.tiff": (picture("TIFF"), "give a PNG, JPEG or WebP"),
    "empty.png": (b"", "This file is empty"),
    "half.png": (picture(size=(300, 300))[:200], "can(not)? be read"),
    "half.jpg": (picture("JPEG", size=(300, 300))[:400], "can(not)? be read"),
    "text bomb.png": (png(2, 1, rows=b"\0" * 7, extra=TEXT_BOMB), "can(not)? be read"),
    "huge.png": (png(13300, 13300, 1, 0, b"\0" * 1000), "at most 17 million pixels"),
    "wide.png": (png(2**31 - 1, 1, 1, 0), "million pixels"),
    "none.png": (png(0, 0), "can(not)? be read"),
}


# Start pictures


@pytest.mark.parametrize("name", NOT_PICTURES)
def test_what_is_no_picture_is_refused_in_a_sentence(server, name):
    content, sentence = NOT_PICTURES[name]
    start = {"path": upload(server, content, name), "meta": {"_type": "gradio.FileData"}}
    kind, said = call(server, KONTEXT, start, name="compare_from_image")
    if kind == "error" and re.search(ANSWERED, said):  # its pixels are looked at when it is drawn
        with pytest.raises(Refused, match=sentence):
            uploads.load(start["path"], "Kontext")
    else:
        assert kind == "error" and re.search(sentence, said)
    kind, said = call(server, {"guidance": ["none"]}, start, name="compare_from_image")
    assert kind == "error" and "does not begin with a picture" in said


@pytest.mark.parametrize(
    "start",
    [
        {"path": str(ROOT / "assets" / "screenshot.png")},
        {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
        {"path": "/dev/stdout"},
        {"path": "/dev/zero", "meta": {"_type": "gradio.FileData"}},
        {"path": "/proc/self/environ", "orig_name": "a.svg"},
        {"path": "https://example.org/cat.png", "meta": {"_type": "gradio.FileData"}},
        {"path": "file:///etc/passwd"},
        {"path": "\0"},
        {"path": "x" * 5000},
        {"path": ["a"], "meta": {"_type": "gradio.FileData"}},
        {"url": "data:image/png;base64,iVBORw0KGgo="},
        {"url": "data:application/postscript;base64,JSFQUw==", "path": None},
        {"url": "https://example.org/cat.png"},
        "/etc/passwd",
        ["/etc/passwd"],
        7,
        {},
    ],
    ids=lambda start: str(start)[:40],
)
def test_a_start_picture_is_what_was_uploaded_and_nothing_else(server, start):
    kind, said = call(server, KONTEXT, start, name="compare_from_image")
    assert kind == "error" and re.search("was uploaded here|begins with a picture", said), said
    assert "Traceback" not in said and "screenshot" not in said


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_start_picture_that_was_uploaded_is_taken(server, kind):
    start = {"path": upload(server, picture(kind), f"a.{kind.lower()}")}
    for given in (start, start | {"meta": {"_type": "gradio.FileData"}}):
        event, said = call(server, KONTEXT, given, name="compare_from_image")
        assert event == "error" and re.search(ANSWERED, said), said


def colours(path):
    return numpy.asarray(uploads.load(path, "Kontext")).reshape(-1, 3).tolist()


def test_start_pictures_look_as_they_do_elsewhere(tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(png(2, 1, 16, 0, b"\0" + GREY))
    assert colours(path) == [[78] * 3, [255] * 3]  # 20000 of 65535
    clear = chunk(b"tRNS", struct.pack(">H", 20000))
    path.write_bytes(png(2, 1, 16, 0, b"\0" + struct.pack(">HH", 20000, 0), clear))
    assert colours(path) == [[255] * 3, [0] * 3]  # what is transparent is on white
    path.write_bytes(png(2, 1, 16, 4, b"\0" + struct.pack(">HHHH", 20000, 65535, 20000, 0)))
    assert colours(path) == [[78] * 3, [255] * 3]
    path.write_bytes(png(1, 1, 16, 2, b"\0" + struct.pack(">HHH", 20000, 65535, 0)))
    assert colours(path) == [[78, 255, 0]]
    Image.new("RGBA", (1, 1), (0, 0, 255, 0)).save(path, "PNG")
    assert colours(path) == [[255] * 3]
    Image.new("RGBA", (1, 1), (255, 0, 0, 128)).save(path, "WEBP", lossless=True)
    assert colours(path) == [[255, 127, 127]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    palette.save(path, "PNG", transparency=1)
    assert colours(path) == [[255, 0, 0], [255] * 3]
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(path, "JPEG", quality=100)
    assert numpy.abs(numpy.array(colours(path)) - [255, 0, 0]).max() <= 3
    Image.new("1", (1, 1), 1).save(path, "PNG")
    assert colours(path) == [[255] * 3]
    image, exif = Image.new("RGB", (40, 20)), Image.Exif()
    exif[0x0112] = 6  # lies on its side
    image.save(path, "JPEG", exif=exif)
    assert uploads.load(path, "Kontext").size == (20, 40)
    image.save(path, "JPEG", exif=b"Exif\0\0" + b"\xff" * 40)  # broken EXIF, whole picture
    assert uploads.load(path, "Kontext").size == (40, 20)


# What Gradio would refuse with `null`


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ([{"prompt": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}], "A file,"),
        (
            [{"a": [{"path": "https://example.org", "meta": {"_type": "gradio.FileData"}}]}],
            "A file",
        ),
        ([{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}], "A file, '/etc/passwd'"),
        ([{"prompt": {"path": 5, "meta": {"_type": "gradio.FileData"}}}], "prompt must be text"),
        ([{"prompt": {"path": "x", "meta": 7}}], "cannot be read as the inputs"),
        ([], "cannot be read as the inputs of this call"),
        (["settings"], "Settings must be one JSON object"),
        ([{"seed": 1}, {"seed": 2}, 3], "This call takes 1 values, and got 3"),
        ([None], "Settings must be one JSON object"),
        ([json.loads("[" * 200 + "]" * 200)], "Settings must be one JSON object"),
        ([{"prompt": "<img src=x onerror=alert(1)>", "seed": "<b>"}], "seed must be a finite"),
    ],
)
def test_every_refusal_is_a_sentence(server, data, sentence):
    kind, said = call(server, *data)
    assert kind == "error" and said and sentence in said, said


# The queue


PRIVATE = [
    "prepare",
    "go",
    "back",
    "refused",
    "halt",
    "leave",
    "choose",
    "from_link",
    "lambda",
    "predict",
]


@pytest.mark.parametrize("door", ["run", "api", "call", "call/v2"])
def test_the_page_s_own_handlers_answer_to_nobody_else(server, door):
    names = PRIVATE + ([] if door.startswith("call") else ["compare", "compare_from_image"])
    for name in names:
        for slash in ("", "/"):
            status, said = ask(server, f"{API}/{door}/{name}{slash}", {"data": [{}], "fn_index": 0})
            assert status == 404 and "Calls wait in the queue" in said["detail"], (name, said)


def test_gradio_offers_nothing_beside_the_page(server):
    for path in (
        "file=https://example.org/",
        "file/http://example.org",
        "proxy=https://a.hf.space",
    ):
        assert ask(server, f"{API}/{path}") == (
            404,
            {name: "There is nothing at this address." for name in ("error", "detail")},
        )
    assert ask(server, f"{API}/deep_link?session_hash=a")[0] == 404
    for path in ("/process_recording", "/component_server", "/stream/a", "/vibe-edit", "/mcp/sse"):
        assert ask(server, API + path, {})[0] == 404
    assert ask(server, "/login", {})[0] == 404


def test_one_address_waits_in_few_places_and_the_page_keeps_one(server):
    long = {"num_inference_steps": 25, "width": 192, "height": 192, "fresh": True}
    answers, lock = [], threading.Lock()

    def join(number):
        answer = ask(server, f"{API}/call/compare", {"data": [long | {"seed": number}]})
        with lock:
            answers.append(answer)

    threads = [threading.Thread(target=join, args=(n,)) for n in range(20)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    events = [answer["event_id"] for status, answer in answers if status == 200]
    refused = [answer["detail"] for status, answer in answers if status == 429]
    assert 1 <= len(events) <= WAITING + 1 and len(events) + len(refused) == 20
    assert "of your address are waiting already" in refused[0]
    index = next(
        d["id"] for d in ask(server, "/config")[1]["dependencies"] if d["api_name"] == "prepare"
    )
    joined = {"data": [], "fn_index": index, "session_hash": "page"}
    assert ask(server, f"{API}/queue/join", joined)[0] == 200
    for event in events:  # who listened and leaves gives its place back, whether drawn or waiting
        listen(server, event).close()
    begun = time.monotonic()
    assert call(server, {"num_inference_steps": 1, "guidance": ["none"]})[0] == "complete"
    assert time.monotonic() - begun < 20


class Pace:
    """Called by a `FakeEngine` after each step: lets it go on as often as it was told to."""

    def __init__(self):
        self.may = threading.Semaphore(0)

    def __call__(self, step):
        assert self.may.acquire(timeout=120), "nobody let the engine go on"

    def let(self, steps):
        self.may.release(steps)


def until(happened, seconds=120):
    """Waits for what happens in another thread; only a broken test waits to the end."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextlib.contextmanager
def faked(preset=presets.DEFAULT):
    """A server in this process, whose engine takes 20 steps -> engine, address, audience."""
    engine = FakeEngine(total=20)
    demo = layout.build(engine, preset)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    gate = serve.gate(demo, "127.0.0.1")
    demo.queue().launch(
        server_port=port, prevent_thread_lock=True, quiet=True, app_kwargs={"middleware": [gate]}
    )
    yield engine, f"http://127.0.0.1:{port}", demo.audience
    demo.close()


@pytest.fixture(scope="module")
def fake():
    with faked() as served:
        yield served


@pytest.mark.parametrize("name", ["compare", "draw"])
def test_a_run_ends_two_steps_after_its_client_left(fake, name):
    """`draw` tells nothing before it is over."""
    engine, server, audience = fake
    engine.goes = pace = Pace()
    runs, steps = engine.ended, engine.steps
    others = [None] * (len(SETTINGS) + 1)  # a preset and a start picture among them
    data = [{}] if name == "compare" else ["a wizard", *others]
    event = ask(server, f"{API}/call/{name}", {"data": data})[1]["event_id"]
    with listen(server, event, name):
        pace.let(5)
        until(lambda: engine.steps == steps + 6)  # the sixth is done, and waits
    until(lambda: audience.away(event))
    pace.let(60)
    until(lambda: engine.ended == runs + 1)
    assert engine.steps <= steps + 8


def test_a_run_ends_where_nobody_ever_listens(fake, monkeypatch):
    engine, server, _ = fake
    runs, steps, now = engine.ended, engine.steps, [0.0]

    def goes(step):
        now[0] += handlers.PATIENCE / 5

    engine.goes = goes
    monkeypatch.setattr(handlers, "time", SimpleNamespace(monotonic=lambda: now[0]))
    assert ask(server, f"{API}/call/compare", {"data": [{}]})[0] == 200
    until(lambda: engine.ended == runs + 1)
    assert 6 <= engine.steps - steps <= 8


def test_who_listens_late_is_drawn_for(fake):
    engine, server, _ = fake
    engine.goes, steps = Pace(), engine.steps
    event = ask(server, f"{API}/call/compare", {"data": [{"guidance": ["nag"]}]})[1]["event_id"]
    until(lambda: engine.steps > steps)
    with listen(server, event) as stream:
        engine.goes.let(60)
        kind, (run, files) = outcome(stream.read().decode())
    assert kind == "complete" and run["columns"]["nag"]["steps"] == 20 and len(files) == 1


def test_clicks_of_a_crowd_hold_no_pictures(monkeypatch):
    """Twenty tabs that only prepare, each with a picture of 4096 x 4096, hold its path: decoded
    they would be 1,300 MB."""
    held, put = {}, clicks.Clicks.put

    def kept(self, tab, click):
        held[tab] = click
        put(self, tab, click)

    monkeypatch.setattr(clicks.Clicks, "put", kept)
    with faked("flux-kontext") as (_, server, _):
        start = {"path": upload(server, picture(size=(4096, 4096)))}
        doors = ask(server, "/config")[1]["dependencies"]
        event = next(each for each in doors if each["api_name"] == "prepare")
        data = settings(preset="flux-kontext", picture=start)
        for number in range(20):
            body = {"data": data, "fn_index": event["id"], "session_hash": f"crowd {number}"}
            assert ask(server, f"{API}/queue/join", body)[0] == 200
        until(lambda: len(held) == 20)
    for click in held.values():
        assert isinstance(click.picture, str)
        assert Path(click.picture).name == Path(start["path"]).name


def test_no_handler_is_called_past_the_queue():
    demo = layout.build(FakeEngine())
    assert not demo.direct() and not demo.api_open
    private = [fn.api_name for fn in demo.fns.values() if fn.api_visibility != "public"]
    assert {"compare", "compare_from_image"} <= set(demo.public())
    assert not set(demo.public()) & set(private)


def test_gradio_s_queue_is_what_it_was():
    """What `Page` reads of it: a queue by concurrency_id, of events with fn, request, session."""
    demo = layout.build(FakeEngine())
    assert demo.waiting() == [] and callable(demo._queue.push)
    fn = next(fn for fn in demo.fns.values() if fn.api_name == "compare")
    demo._queue.create_event_queue_for_fn(fn)
    request = SimpleNamespace(client=SimpleNamespace(host="1.2.3.4"))
    line = demo._queue.event_queue_per_concurrency_id["engine"].queue
    line.append(queueing.Event("tab", fn, request, None))
    assert demo.waiting() == [Place("1.2.3.4", "tab", True)]


def test_a_page_of_another_version_is_told_so(server):
    status, said = ask(
        server, f"{API}/queue/join", {"data": [], "fn_index": 999, "session_hash": "a"}
    )
    assert status == 404 and "load it again" in said["detail"]


# Foreign pages


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://evil.example/://HOST",
        "http://HOST@evil.example",
        "http://evil.example#HOST",
        "http://evil.example:80",
        "http://localhost:1",
        "http://HOST.evil.example",
        "//HOST",
        "HOST",
        "null",
        "",
        "file://",
    ],
)
def test_other_sites_are_turned_away(server, origin):
    origin = origin.replace("HOST", server.removeprefix("http://"))
    for path, body in ((f"{API}/call/compare", {"data": [{}]}), (f"{API}/info", None)):
        status, said = ask(server, path, body, Origin=origin)
        assert (status, said["error"]) == (403, "This page takes no requests from other sites.")


def test_its_own_pages_are_not(server):
    for name in ("127.0.0.1", "localhost"):
        address = server.replace("127.0.0.1", name)
        host = address.removeprefix("http://")
        for own in (address, address.replace("http", "https")):  # a proxy may speak TLS
            assert ask(server, f"{API}/info", Origin=own, Host=host)[0] == 200
        body = {"data": [], "fn_index": 999, "session_hash": "a"}
        _, said = ask(server, f"{API}/queue/join", body, Origin=address, Host=host)
        assert "load it again" in said["detail"]
    assert ask(server, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")[0] == 200
    assert ask(server, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors")[0] == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1:80@evil.example",
        "localhost:evil.example",
        "127.0.0.1.evil.example",
        "localhost/",
        "localhost#",
        "[::1",
        "127.0.0.1:99999999",
        "",
    ],
)
def test_other_names_are_turned_away(server, host):
    status, said = ask(server, "/", Host=host)
    assert (status, said["detail"]) == (421, "This page does not answer to that name.")


@pytest.mark.parametrize(
    ("host", "origin", "same"),
    [
        ("//example.org", "https://example.org", True),
        ("//example.org", "http://example.org", True),
        ("//example.org:443", "https://example.org", True),
        ("//EXAMPLE.org", "http://example.org:80", True),
        ("//[::1]:7860", "http://[::1]:7860", True),
        ("//example.org", "https://example.org:8443", False),
        ("//example.org:80", "https://example.org", False),
        ("https://example.org", "https://example.org:443", True),
        ("https://example.org", "http://example.org", False),
        ("//example.org", "https://www.example.org", False),
    ],
)
def test_an_origin_is_a_host_where_scheme_name_and_port_agree(host, origin, same):
    assert Origin.parse(host).same(Origin.parse(origin)) is same


def through(host, origin, listens="127.0.0.1", public="", path="/", method="GET"):
    """The status that a gate answers; 200 where it lets a request through."""

    async def app(scope, receive, send):
        await PlainTextResponse("in")(scope, receive, send)

    demo = SimpleNamespace(public=lambda: ["compare"], audience=Audience())
    made = serve.gate(demo, listens, public)
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    client = TestClient(made.cls(app, **made.kwargs))
    return client.request(method, path, headers=headers).status_code


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("192.168.1.5:7860", "http://192.168.1.5:7860", 200),
        ("lab.example:7860", "http://lab.example:7860", 200),
        ("192.168.1.5:7860", None, 200),
        ("192.168.1.5:7860", "http://evil.example", 403),
        ("192.168.1.5:7860", "http://192.168.1.5:9999", 403),
        ("127.0.0.1:80@evil.example", None, 421),
        ("evil.example/", "http://evil.example", 421),
    ],
)
def test_on_every_interface_an_origin_must_be_the_host(host, origin, status):
    assert through(host, origin, listens="0.0.0.0") == status


def test_on_a_space_an_origin_must_be_the_host_or_the_space(monkeypatch):
    monkeypatch.setenv("SPACE_HOST", "me-nag.hf.space")
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    for host in ("me-nag.hf.space", "10.1.2.3:7860"):
        assert through(host, "https://me-nag.hf.space", listens="0.0.0.0") == 200
        assert through(host, "https://evil.hf.space", listens="0.0.0.0") == 403
        assert through(host, None, listens="0.0.0.0") == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:7860", "https://example.org", 200),  # nginx's defaults
        ("example.org", "https://example.org", 200),  # a proxy that hands on the name
        ("example.org", "https://example.org:443", 200),
        ("127.0.0.1:7860", "http://127.0.0.1:7860", 200),
        ("127.0.0.1:7860", "http://example.org", 403),
        ("127.0.0.1:7860", "https://example.org.evil.example", 403),
        ("evil.example", "https://example.org", 421),
    ],
)
def test_behind_a_proxy_its_public_address_is_known(host, origin, status):
    assert through(host, origin, public="https://example.org/nag") == status
    path = "/nag/gradio_api/run/compare"  # a proxy that leaves the sub-path where it is
    made = through(host, origin, public="https://example.org/nag", path=path, method="POST")
    assert made == (404 if status == 200 else status)


@pytest.mark.parametrize("length", [None, "400000", "-1", "x"])
def test_bodies_that_are_too_large_are_turned_away(server, length):
    host, port = server.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.putrequest("POST", f"{API}/call/compare")
    connection.putheader("Content-Type", "application/json")
    if length is None:  # in pieces, whose sum nobody knows beforehand
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for _ in range(40):
            connection.send(b"2710\r\n" + b" " * 10_000 + b"\r\n")
        connection.send(b"0\r\n\r\n")
    else:
        connection.putheader("Content-Length", length)
        connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == (413 if length in (None, "400000") else 400)
    if answer.status == 413:
        assert json.loads(answer.read())["error"] == "Requests may have at most 256 kB."
    connection.close()


# The beginning and the end of the server


def environment(**more):
    return {k: v for k, v in os.environ.items() if k != "GRADIO_TEMP_DIR"} | more


def small_files():
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_end_leaves_no_file_also_in_the_midst_of_a_run(tmp_path_factory, sign):
    """With SIGINT, in a locale that knows ASCII alone."""
    home = tmp_path_factory.mktemp("home")
    env = environment(TMPDIR=str(home))
    if sign == signal.SIGINT:
        env |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(tmp_path_factory, "app.py", "--port", env=env, log=log, sign=sign) as url:
        assert ask(url, "/")[0] == 200
        upload(url, picture())
        short = {"num_inference_steps": 1, "guidance": ["none"], "prompt": "Schöne Grüße → 你好"}
        kind, said = call(url, short)
        assert kind == "complete", said
        assert [path for path in home.rglob("*") if path.is_file()]
        event = ask(url, f"{API}/call/compare", {"data": [{"fresh": True}]})[1]["event_id"]
        stream = listen(url, event)
        stream.readline()
    left = [path for path in home.rglob("*") if path.is_file() or "nag" in path.name]
    assert not left and "Traceback" not in log.read_text(), log.read_text()


def test_a_folder_that_was_removed_is_made_again(server, home):
    short = {"num_inference_steps": 1, "guidance": ["none"], "fresh": True}
    assert call(server, short)[0] == "complete"
    shutil.rmtree(next(home.glob("nag-side-by-side-*")))
    kind, (_, files) = call(server, short)
    assert kind == "complete" and ask(server, urlsplit(files[0]["url"]).path)[0] == 200
    start = {"path": upload(server, picture())}
    assert re.search(ANSWERED, call(server, KONTEXT, start, name="compare_from_image")[1])


def test_pictures_that_are_shown_again_are_no_new_files(server, home):
    short = {"num_inference_steps": 1, "guidance": ["none", "nag"], "seed": 77}
    first = call(server, short)[1]
    before = sorted(path for path in home.rglob("*") if path.is_file())
    again = call(server, short)[1]
    assert all(column["reused"] for column in again[0]["columns"].values())
    assert sorted(path for path in home.rglob("*") if path.is_file()) == before
    assert [file["url"] for file in again[1]] == [file["url"] for file in first[1]]


def test_a_full_disk_is_told_to_who_asks(tmp_path_factory):
    env = environment(TMPDIR=str(tmp_path_factory.mktemp("home")))
    with serving(tmp_path_factory, "app.py", "--port", env=env, preexec_fn=small_files) as url:
        kind, said = call(url, {"num_inference_steps": 1, "guidance": ["none"]})
        assert kind == "error" and "could not be written: the disk of this server is full" in said


def run_app(*arguments, **env):
    return subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_address_that_is_none_is_a_sentence():
    ended = run_app("--public", "example.org")
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "--public is an address like https://example.org/nag, got 'example.org'" in ended.stderr


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("mine.json", b"{", "presets/mine.json is not a preset"),
        ("mine.json", b"\xff\xfe", "presets/mine.json is not a preset: it is not text in UTF-8"),
        ("mine.json", b"[" * 100_000, "presets/mine.json is not a preset"),
        ("mine.json", b"[]", "presets/mine.json is not a preset"),
        ("mine.json", {"nag_tau": 99}, "presets/mine.json: nag_tau must be between"),
        ("mine.json", None, "presets/mine.json cannot be read"),  # a folder of that name
        ("pocket-portrait.json", "gone", "presets/pocket-portrait.json is missing"),
        ("pocket-portrait.json", b"{", "presets/pocket-portrait.json is not a preset"),
    ],
)
def test_a_broken_preset_file_is_named_and_the_others_load(
    tmp_path, monkeypatch, caplog, name, content, sentence
):
    """Without the default there is nothing to open with."""
    good = (ROOT / "presets" / "pocket-portrait.json").read_bytes()
    (tmp_path / "pocket-portrait.json").write_bytes(good)
    (tmp_path / "._pocket-portrait.json").write_bytes(b"\x00\x05\x16\x07")  # as macOS leaves
    monkeypatch.setattr(presets, "FOLDER", tmp_path)
    assert list(presets.load_all.__wrapped__()) == ["pocket-portrait"]
    if content is None:
        (tmp_path / name).mkdir()
    elif content == "gone":
        (tmp_path / name).unlink()
    else:
        content = content if isinstance(content, bytes) else json.dumps(json.loads(good) | content)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "pocket-portrait.json":
        with pytest.raises(Refused, match=re.escape(sentence)):
            presets.load_all.__wrapped__()
        return
    caplog.clear()
    assert list(presets.load_all.__wrapped__()) == ["pocket-portrait"]
    assert sentence in caplog.text and str(tmp_path) not in caplog.text


def test_the_server_ends_with_a_sentence_where_the_default_preset_is_missing(tmp_path):
    (tmp_path / "mine.json").write_text("{")
    (tmp_path / "._mine.json").write_bytes(b"\xff")
    code = (
        "import pathlib, runpy, sys, nag.presets; nag.presets.FOLDER = pathlib.Path(sys.argv[1]); "
        "runpy.run_path('app.py', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "presets/mine.json is not a preset" in ended.stderr
    assert "presets/._mine.json is a hidden file" in ended.stderr
    assert str(tmp_path) not in ended.stderr


def test_a_port_in_use_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_app("--port", str(port))
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert f"Port {port} of 127.0.0.1 cannot be used" in ended.stderr
    assert f"--port {port + 1}" in ended.stderr
