"""The API with one parameter a setting, over HTTP and by the Model Context Protocol."""

import asyncio
import inspect
import zipfile
from pathlib import Path

import gradio as gr
import pytest
from gradio.utils import get_function_description
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from test_doors import environment
from test_page import serving

import app
from nag import presets
from nag.errors import NAGRuntimeError
from nag.explore.votes import Vote, VoteFile
from nag.page.api import add_api
from nag.page.handlers import PageHandlers
from nag.page.rooms.api import RoomEndpoints
from nag.page.rooms.api import add_api as add_rooms_api
from nag.page.serve import launch
from nag.request import RANGED, SETTINGS

SETTINGS_OF_RUN = {"seed": 7, "guidance": ["none", "nag"], "num_inference_steps": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory, "app.py", "--port", env=environment()) as url:
        yield url


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloads")
    return Client(server, verbose=False, analytics_enabled=False, download_files=str(folder))


@pytest.fixture(scope="module")
def functions():
    with gr.Blocks() as demo:
        add_api(PageHandlers(None))
    return {fn.api_name: fn for fn in demo.fns.values()}


def test_every_setting_is_a_parameter_that_says_what_it_is(functions):
    draw = functions["draw"].fn
    parameters = [name for name in inspect.signature(draw).parameters if name != "request"]
    assert set(parameters) == {"preset", *SETTINGS, "start_picture"}
    _, described, returned = get_function_description(draw)
    assert all(described[name] for name in parameters) and len(returned) == 3
    kinds = {
        name: block._api_info
        for name, block in zip(parameters, functions["draw"].inputs, strict=True)
    }
    assert kinds["preset"]["oneOf"][1]["enum"] == list(presets.load_all())
    assert kinds["seed"]["oneOf"][1] == {"type": "integer"}
    for name in RANGED:
        assert kinds[name]["oneOf"][1]["type"] in ("integer", "number"), name


def test_a_call_of_settings_is_a_call_of_one_object(client):
    run, beside, files = client.predict(**SETTINGS_OF_RUN, api_name="/draw")
    other, others = client.predict(SETTINGS_OF_RUN, api_name="/compare")
    assert run["settings"] == other["settings"] and run["files"] == ["none", "nag"]
    pictures = [Image.open(path).convert("RGB") for path in files]
    assert [p.tobytes() for p in pictures] == [
        Image.open(o).convert("RGB").tobytes() for o in others
    ]
    sheet = Image.open(beside)
    assert (
        sheet.size == (256, 128)
        and sheet.crop((128, 0, 256, 128)).tobytes() == pictures[1].tobytes()
    )
    shown = client.predict(run["run"], api_name="/picture")
    assert Image.open(shown).tobytes() == sheet.tobytes()


def test_what_is_left_out_is_the_presets_own(client):
    run, _, _ = client.predict(preset="pocket-joint", guidance=["none"], api_name="/draw")
    own = presets.load_all()["pocket-joint"].settings
    assert run["settings"]["nag_tau"] == own["nag_tau"] and run["settings"]["seed"] == own["seed"]


PICTURE = Path(__file__).parents[1] / "assets" / "screenshot.png"


def test_refusals_are_sentences(client):
    for name, arguments, sentence in (
        ("/draw", {"nag_tau": 99}, "nag_tau must be between 1 and 20"),
        ("/draw", {"preset": "flux-kontext"}, "begins with a picture"),
        (
            "/draw",
            {"start_picture": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}},
            "stands where text",
        ),
        ("/preset", {"name": "../README"}, "name must be one of 49, such as"),
        ("/preset", {"name": {}}, "name must be one of"),
        ("/picture", {"run": 5}, "run must be text, got 5"),
        ("/picture", {"run": None}, "run must be text, got None"),
        ("/keep", {"run": {"a": 1}, "kind": "zip"}, "run must be text"),
        ("/keep", {"run": "0", "kind": "exe"}, "kind must be one of strip, zip"),
        ("/save_preset", {"settings": "x"}, "settings must be one JSON object"),
        ("/save_preset", {"settings": {"foo": 3}}, "'foo' is not a setting"),
        ("/sweep", {"across": "seed", "across_values": 5}, "across_values must be text, got 5"),
        ("/sweep", {"across": [], "across_values": "5"}, "across must be one of nag_scale"),
        ("/sweep", {"across": "seed", "across_values": "5", "down_values": "2"}, "go with down"),
        ("/seeds", {"seeds": "1e600000"}, "is too large"),
        ("/xray", {"at_scale": "abc"}, "at_scale must be a number, got 'abc'"),
        (
            "/compare_from_image",
            {"settings": {}, "image": handle_file(PICTURE)},
            "does not begin with",
        ),
        ("/picture", {"run": "../../x"}, "There are no pictures of a run"),
        ("/picture", {"run": "0" * 12}, "There are no pictures of a run"),
    ):
        with pytest.raises(AppError, match=sentence):
            client.predict(**arguments, api_name=name)


def test_a_run_is_given_as_one_file_and_settings_as_a_preset(client):
    run, *_ = client.predict(**SETTINGS_OF_RUN, api_name="/draw")
    with zipfile.ZipFile(client.predict(run["run"], "zip", api_name="/keep")) as archive:
        assert {"run.json", "strip.png"} < set(archive.namelist())
    with Image.open(client.predict(run["run"], "webp", api_name="/keep")) as image:
        assert image.n_frames == 2
    page = Path(client.predict(run["run"], "html", api_name="/keep")).read_text("utf-8")
    assert "data:image/png;base64" in page
    file = Path(client.predict({"seed": 7, "nag_alpha": 0.5}, api_name="/save_preset"))
    assert presets.parse("mine", file.read_text("utf-8")).settings["nag_alpha"] == 0.5
    for wrong in ({"seed": -1}, {"preset": "none such"}):
        with pytest.raises(AppError, match="must be"):
            client.predict(wrong, api_name="/save_preset")
    with pytest.raises(AppError, match="no longer kept"):
        client.predict("0" * 12, "zip", api_name="/keep")


def test_presets_are_listed_and_told(client):
    listed = client.predict(api_name="/presets")
    assert [one["name"] for one in listed] == list(presets.load_all())
    assert "runs here" in listed[0]["here"]
    told = client.predict("flux-schnell", api_name="/preset")
    assert told["settings"]["nag_scale"] == 5 and told["ranges"]["num_inference_steps"] == [1, 8]
    assert told["source"] and told["prompts"] and "GPU" in told["memory"]


def test_mcp_lists_its_tools_and_answers_a_comparison(tmp_path_factory):
    pytest.importorskip("mcp")
    with serving(tmp_path_factory, "app.py", "--mcp", "--port", env=environment()) as url:
        tools, run, picture, refused, compared = asyncio.run(ask_mcp(f"{url}/gradio_api/mcp/"))
    named = {"draw", "picture", "presets", "preset", "compare", "compare_from_image"}
    assert set(tools) == named | {"keep", "save_preset", "sweep", "seeds", "xray", "tally"}
    assert "parameters of /draw" in tools["compare"]["settings"]["description"]
    assert compared["files"] == ["none", "nag"] and compared["settings"]["seed"] == 7
    assert "1 and up" in tools["draw"]["nag_tau"]["description"]
    assert (
        run.type == "text" and "'pocket-portrait'" in run.text and "/gradio_api/file=" in run.text
    )
    assert picture.type == "image" and picture.mimeType == "image/png"
    assert refused == (True, "nag_tau must be between 1 and 20, got 99.")


async def ask_mcp(url: str):
    """What the reference client is told."""
    import ast

    from jsonschema import Draft202012Validator
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(url) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        tools = {tool.name: tool.inputSchema for tool in (await session.list_tools()).tools}
        for schema in tools.values():  # a client may take none of the tools where one is wrong
            Draft202012Validator.check_schema(schema)
        run = (await session.call_tool("draw", SETTINGS_OF_RUN)).content[0]
        number = ast.literal_eval(run.text)[0]["run"]
        picture = (await session.call_tool("picture", {"run": number})).content[0]
        refused = await session.call_tool("draw", {"nag_tau": 99})
        answer = await session.call_tool("compare", {"settings": SETTINGS_OF_RUN})
        compared = ast.literal_eval(answer.content[0].text)[0]
        refusal = refused.isError, refused.content[0].text
        tools = {name: schema["properties"] for name, schema in tools.items()}
        return tools, run, picture, refusal, compared


def test_mcp_is_off_unless_asked_for_and_says_what_it_needs(server, monkeypatch):
    import urllib.error
    import urllib.request

    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{server}/gradio_api/mcp/", b"{}")
    assert app.options().parse_args([]).mcp is False
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NAGRuntimeError, match="pip install 'mcp"):
        launch(None, "127.0.0.1", 0, mcp=True)


def test_what_the_page_shows_of_the_api_can_be_called_as_shown(server, client):
    import httpx

    told = httpx.get(f"{server}/gradio_api/info").json()["named_endpoints"]["/compare"]
    (settings,) = told["parameters"]
    assert settings["parameter_name"] == "settings" and settings["type"]["type"] == "object"
    assert [one["label"] for one in told["returns"]] == ["run", "files"]
    run, _ = client.predict(settings["example_input"] | SETTINGS_OF_RUN, api_name="/compare")
    assert run["preset"] == "pocket-portrait"


@pytest.fixture(scope="module")
def rooms():
    with gr.Blocks() as demo:
        add_rooms_api(PageHandlers(None))
    return {fn.api_name: fn for fn in demo.fns.values()}


@pytest.mark.parametrize(
    "name, own, without",
    [
        ("sweep", {"across", "across_values", "down", "down_values", "column"}, {"guidance"}),
        ("seeds", {"seeds"}, {"seed"}),
        ("xray", {"at_scale", "at_tau", "at_alpha"}, {"guidance"}),
    ],
)
def test_a_room_has_one_parameter_a_setting_too(rooms, name, own, without):
    function = rooms[name].fn
    parameters = [one for one in inspect.signature(function).parameters if one != "request"]
    settings = {"preset", *SETTINGS, "start_picture"} - {"batched", "fresh"} - without
    assert set(parameters) == own | settings and len(parameters) == len(own | settings)
    about, described, returned = get_function_description(function)
    assert about and len(returned) == 2
    assert all(described[one] for one in parameters)
    kinds = dict(zip(parameters, rooms[name].inputs, strict=True))
    assert kinds["nag_tau"]._api_info["oneOf"][1]["type"] == "number"


def test_a_sweep_is_one_call_and_goes_on_where_it_was(client):
    asked = {"across": "nag_alpha", "across_values": "0, 1", "num_inference_steps": 1}
    told, picture = client.predict(**asked, api_name="/sweep")
    assert told["across"] == ["0", "1"] and told["cells"][0][0]["guidance"] == "none"
    assert told["cells"][0][1]["outcome"] in ("gone", "replaced", "left", "absent")
    assert Image.open(picture).width > 400
    again, _ = client.predict(**asked, api_name="/sweep")
    assert again == told, "also the seconds: nothing was drawn anew"
    with pytest.raises(AppError, match="choose two settings"):
        client.predict(**asked, down="nag_alpha", down_values="1", api_name="/sweep")
    with pytest.raises(AppError, match="'x' is not a number"):
        client.predict(**asked | {"across_values": "x"}, api_name="/sweep")


def test_seeds_are_counted_in_one_call(client):
    asked = {"seeds": "17 .. 18", "guidance": ["none", "nag"], "num_inference_steps": 2}
    told, picture = client.predict(**asked, api_name="/seeds")
    assert told["down"] == ["No guidance", "NAG"] and told["counted"]["nag"]["of"] == 2
    assert Image.open(picture).width > 400


def test_an_x_ray_is_recorded_once_and_read_at_other_settings(client):
    told, _ = client.predict(num_inference_steps=2, api_name="/xray")
    assert told["exact"] == "every step" and len(told["clipped"]) == len(told["layers"]) == 4
    moved, picture = client.predict(num_inference_steps=2, at_tau=4, api_name="/xray")
    assert moved["read"]["nag_tau"] == 4 and moved["clipped"][0][0] < told["clipped"][0][0]
    assert moved["mean_ratio"] == told["mean_ratio"], "the same recording"
    assert Image.open(picture).height > 100
    with pytest.raises(AppError, match="NAG is off"):
        client.predict(nag_scale=1, api_name="/xray")


def test_the_tally_is_of_the_owners_file(client, tmp_path):
    with pytest.raises(AppError, match="starts the page with --votes FILE"):
        client.predict(api_name="/tally")
    file = VoteFile(tmp_path / "votes.db")
    pair = ("pocket-portrait", "a cowboy", "hat", 1, "nag", "cfg")
    for choice in ("left", "left", "right", "tie"):
        file.add(Vote(*pair, "words", choice))
    found = RoomEndpoints(None, tmp_path / "votes.db").tally()
    assert found["words"] | {"interval": None} == {
        "wins": 2,
        "losses": 1,
        "draws": 1,
        "score": 0.25,
        "interval": None,
    }
    assert found["looks"]["score"] is None
