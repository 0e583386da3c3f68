"""Nobody gets in, nothing hangs, nothing lies: the started app.py as strangers meet it."""

import http.client
import io
import json
import os
import re
import resource
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

import numpy
import pytest
from PIL import Image
from test_page import ROOT, serving

from nag.errors import Refused
from nag.media import uploads
from nag.page.gate import Origin
from nag.page.line import WAITING

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
            status, text = answer.status, answer.read().decode()
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
    kind, said = call(server, {"preset": "flux-kontext"}, start, name="compare_from_image")
    if kind == "error" and re.search(ANSWERED, said):  # its pixels are looked at when it is drawn
        with pytest.raises(Refused, match=sentence):
            uploads.load(start["path"], "Kontext")
    else:
        assert kind == "error" and re.search(sentence, said)
    # where the preset has no picture it says nothing, and breaks nothing
    settings = {"num_inference_steps": 1, "guidance": ["none"]}
    assert call(server, settings, start, name="compare_from_image")[0] == "complete"


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
    ids=str,
)
def test_a_start_picture_is_what_was_uploaded_and_nothing_else(server, start):
    kind, said = call(server, {"preset": "flux-kontext"}, start, name="compare_from_image")
    assert kind == "error" and re.search("was uploaded here|begins with a picture", said), said
    assert "Traceback" not in said and "screenshot" not in said


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_start_picture_that_was_uploaded_is_taken(server, kind):
    start = {"path": upload(server, picture(kind), f"a.{kind.lower()}")}
    for given in (start, start | {"meta": {"_type": "gradio.FileData"}}):
        event, said = call(server, {"preset": "flux-kontext"}, given, name="compare_from_image")
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
        ([None], "Settings must be one JSON object"),
        ([json.loads("[" * 200 + "]" * 200)], "Settings must be one JSON object"),
        ([{"prompt": "<img src=x onerror=alert(1)>", "seed": "<b>"}], "seed must be a finite"),
    ],
)
def test_every_refusal_is_a_sentence(server, data, sentence):
    kind, said = call(server, *data)
    assert kind == "error" and said and sentence in said, said


# The queue


PRIVATE = ["prepare", "go", "back", "halt", "leave", "choose", "from_link", "lambda", "predict"]


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


def test_a_client_that_left_frees_the_engine(server):
    """Each of its steps takes a while; the next visitor waits for one or two of them."""
    long = {"num_inference_steps": 30, "width": 192, "height": 192, "fresh": True}
    long |= {"guidance": ["cfg", "cfg+nag"]}
    event = ask(server, f"{API}/call/compare", {"data": [long]})[1]["event_id"]
    with listen(server, event) as stream:
        while b'"steps": 3' not in (line := stream.readline()):
            assert line
        begun = time.monotonic()
        while b'"steps": 6' not in (line := stream.readline()):
            assert line
        step = (time.monotonic() - begun) / 3
    begun = time.monotonic()
    assert (
        call(server, {"num_inference_steps": 1, "guidance": ["none"], "seed": 9})[0] == "complete"
    )
    waited = time.monotonic() - begun
    begun = time.monotonic()
    assert (
        call(server, {"num_inference_steps": 1, "guidance": ["none"], "seed": 8})[0] == "complete"
    )
    assert waited - (time.monotonic() - begun) < 2 * step + 1.5


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
        assert call(url, short)[0] == "complete"
        assert [path for path in home.rglob("*") if path.is_file()]
        event = ask(url, f"{API}/call/compare", {"data": [{"fresh": True}]})[1]["event_id"]
        stream = listen(url, event)
        stream.readline()
    left = [path for path in home.rglob("*") if path.is_file() or "nag" in path.name]
    assert not left and "Traceback" not in log.read_text(), log.read_text()


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


def test_a_port_in_use_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run_app("--port", str(port))
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert f"Port {port} of 127.0.0.1 cannot be used" in ended.stderr
    assert f"--port {port + 1}" in ended.stderr
