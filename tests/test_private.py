"""What other libraries do not promise is still there. A failure here names what they changed."""

import ast
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import diffusers
import gradio as gr
import pytest
import torch
from accelerate import cpu_offload_with_hook
from denoisers import bare
from diffusers.hooks import FirstBlockCacheConfig, TextKVCacheConfig
from diffusers.models.attention_dispatch import attention_backend
from gradio.state_holder import SessionState
from tiny import PIPELINES, draw, pipeline
from torch.nn.attention import SDPBackend

from nag import kernels, private
from nag.segments import Inputs

NAG = Path(private.__file__).parent
CLASSES = {
    name: cls
    for name in dir(diffusers)
    if isinstance(cls := getattr(diffusers, name), type)
    and issubclass(cls, diffusers.DiffusionPipeline)
    and cls is not diffusers.DiffusionPipeline
}
# arguments of `encode_prompt` that stay as they are when other words are encoded
HOW_WORDS_ARE_ENCODED = set(
    re.findall(
        r"\w+",
        """
    _cut_context attention_mask audio_duration batch_size bpm chi_prompt clean_caption clip_skip
    complex_human_instruction content_prompt device do_classifier_free_guidance dtype editing_prompt
    enable_edit_guidance encoder_attention_mask grid_h grid_w guidance_scale image
    image_embed_interleave image_pad_mask instruction keyscale kwargs layout_prompt lora_scale
    lyrics mask_feature max_lyric_length max_new_tokens max_sequence_length max_text_length mode
    num_condition_images prompt_template query_embeds return_index scale_factor self
    skip_text_cleaning system_prompt task_prompt template_type text_encoder_index
    text_encoder_out_layers text_pad_embedding timesignature tokenizer_max_length transcription
    vocal_language
    """,
    )
)


# promised, in spite of the underscore: of named tuples, and of os
PROMISED = {"_asdict", "_fields", "_make", "_replace", "_exit"}
BY_NAME = ("getattr", "hasattr", "wrap_method", "set_attribute")


def own_names(tree: ast.Module) -> set[str]:
    """Every name with one underscore in front that a module gives itself."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            names.add(getattr(node, "id", None) or node.attr)
    return names


def test_every_private_name_of_another_library_stands_in_one_file():
    """nag/kernels.py has torch's attention kernels, which it tries before it takes one."""
    found = []
    private_name = re.compile(r"_[a-z]\w+")
    for path in NAG.rglob("*.py"):
        if path.name in ("private.py", "kernels.py"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        own = own_names(tree) | PROMISED
        for node in ast.walk(tree):
            names = [getattr(node, "attr", "")]
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [alias.name for alias in node.names]
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in BY_NAME:
                names = [getattr(node.args[1], "value", "")]
            found += [
                f"{path.relative_to(NAG)}:{node.lineno} {name}"
                for name in names
                if private_name.fullmatch(str(name)) and name not in own
            ]
    assert found == [], "move what reads them to nag/private.py, with a test here"


def test_the_arguments_of_encode_prompt_are_those_that_we_know():
    """A new name for the prompt, or for the number of pictures, would be taken for a setting."""
    new, nameless = [], []
    for name, cls in CLASSES.items():
        if not hasattr(cls, "encode_prompt"):
            continue
        arguments = set(inspect.signature(cls.encode_prompt).parameters)
        nameless += [] if arguments & {*private.PROMPTS} else [name]
        new += [
            f"{name} {argument}"
            for argument in arguments - HOW_WORDS_ARE_ENCODED - {*private.PROMPTS, private.CFG}
            if not private.PICTURES.fullmatch(argument)
            and not private.OTHER_WORDS.fullmatch(argument)
        ]
    assert new == [], "is it of the words (nag/private.py, OTHER_WORDS), or how they are encoded?"
    assert nameless == [
        "LEditsPPPipelineStableDiffusion",
        "LEditsPPPipelineStableDiffusionXL",
        "VisualClozeGenerationPipeline",
    ], "encode_prompt has no `prompt` in these pipelines (nag/private.py, PROMPTS)"


def test_pipelines_still_have_the_encoder_of_old():
    assert private.old_encoders(diffusers.StableDiffusionInstructPix2PixPipeline) == [
        "_encode_prompt"
    ], "diffusers renamed _encode_prompt, which some pipelines have alone"
    assert private.old_encoders(diffusers.FluxPipeline) == []


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_a_pipeline_says_how_many_steps_it_makes(name):
    """Image-to-image of strength .5 makes half of them, and `end` counts from these."""
    text = pipeline(name)
    pipe = diffusers.AutoPipelineForImage2Image.from_pipe(text)
    pipe.set_progress_bar_config(disable=True)
    start = torch.zeros(1, 3, 32, 32)
    half = {"image": start, "strength": 0.5, "num_inference_steps": 4, **PIPELINES[name].plain}
    pipe("a cat", output_type="latent", **half)
    assert private.announced_steps(pipe) == 2, "diffusers renamed num_timesteps of pipelines"
    assert private.announced_steps(diffusers.DDPMPipeline(None, None)) is None


def test_a_pipeline_says_where_it_computes():
    assert isinstance(
        inspect.getattr_static(diffusers.DiffusionPipeline, "_execution_device"), property
    ), "diffusers renamed _execution_device: offloaded pipelines seem to be on the CPU"
    assert private.execution_device(pipeline("sd"), None) == torch.device("cpu")


@pytest.mark.parametrize("name", ["flux", "qwen-image", "chroma"])
def test_packed_latents_can_be_unpacked(name):
    pipe = pipeline(name)
    unpacked = private.unpack_latents(pipe, draw(name, steps=1), 32, 32)
    assert unpacked.shape[-2:] == (32 // pipe.vae_scale_factor,) * 2, (
        "diffusers changed _unpack_latents, which previews need"
    )


def test_latents_can_be_unpacked_where_the_pipeline_knows_its_own_scale():
    """Krea 2's takes three arguments where the others take four."""
    pipe = object.__new__(diffusers.Krea2Pipeline)
    vars(pipe).update(vae_scale_factor=8, patch_size=2)
    assert private.unpack_latents(pipe, torch.zeros(1, 4, 16), 32, 32).shape == (1, 4, 1, 4, 4)


def test_ernie_image_pads_its_text_where_we_listen():
    assert hasattr(diffusers.ErnieImagePipeline, private.ERNIE_PADS), (
        "diffusers renamed ErnieImagePipeline._pad_text: its text would not be guided"
    )


def test_a_placeholder_names_the_packages_that_are_absent():
    from diffusers.utils import dummy_pt_objects

    assert private.absent_packages(dummy_pt_objects.FluxTransformer2DModel) == ("torch",)
    assert private.absent_packages(diffusers.FluxPipeline) == ()


def test_the_attention_backend_is_known_by_its_name():
    assert private.attention_backend() == "native"
    with attention_backend("_native_math"):
        assert private.attention_backend() == "_native_math", (
            "diffusers changed _AttentionBackendRegistry: NAG would merge what another kernel made"
        )


def test_a_kernel_in_the_place_of_pytorchs_is_seen(monkeypatch):
    with torch.device("cpu"), torch.inference_mode():
        assert not private.attention_is_replaced(), "NAG would never merge: a step costs more"
    with torch.overrides.BaseTorchFunctionMode():
        assert private.attention_is_replaced(), "torch renamed its stack of function modes"
    own = torch.nn.functional.scaled_dot_product_attention
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a: own(*a))
        assert private.attention_is_replaced()


def test_an_attention_module_says_which_processor_it_comes_with():
    flux = pipeline("flux").transformer.transformer_blocks[0].attn
    assert private.usual_processor(flux) == "FluxAttnProcessor", "diffusers renamed its default"
    assert private.usual_processor(pipeline("sd").unet) is None


def test_caches_of_a_texts_keys_are_found():
    denoiser = bare("NucleusMoEImageTransformer2DModel").transformer
    assert private.text_caches(denoiser) == []
    denoiser.enable_cache(TextKVCacheConfig())
    try:
        assert len(private.text_caches(denoiser)) > 1, "diffusers renamed the hooks of its cache"
    finally:
        denoiser.disable_cache()


def test_step_caches_are_found():
    denoiser = pipeline("flux").transformer
    assert private.stateful_hooks(denoiser) == []
    denoiser.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    try:
        found = private.stateful_hooks(denoiser)
        assert found and all(hasattr(registry, "reset_stateful_hooks") for registry in found), (
            "diffusers renamed _diffusers_hook or _is_stateful: step caches would mix two texts"
        )
    finally:
        denoiser.disable_cache()


def test_a_denoiser_on_several_devices_is_known():
    """Where `enable_parallelism` writes it; tests/test_several_devices.py runs two processes."""
    changed = "diffusers renamed what tells of several devices: NAG would guide a part of the heads"
    assert diffusers.ModelMixin._parallel_config is None, changed
    tensor = diffusers.TensorParallelConfig(tp_degree=2)
    tensor.setup(0, 2, None, SimpleNamespace(size=lambda: 2))
    for field, config in (
        ("tensor", tensor),
        ("context", diffusers.ContextParallelConfig(ring_degree=2)),
    ):
        model = torch.nn.Module()
        assert private.parallelism(model) is None
        model._parallel_config = diffusers.ParallelConfig(**{f"{field}_parallel_config": config})
        assert private.parallelism(model) == field, changed


def test_offloaded_modules_are_known_by_their_hook():
    module, calls = torch.nn.Linear(2, 2), []
    own = module.forward
    assert private.offload_hook(module) is None and private.own_forward(module) == "forward"
    module, hook = cpu_offload_with_hook(module, "cpu")
    assert private.offload_hook(module) is hook.hook, "accelerate renamed _hf_hook"
    assert getattr(module, private.own_forward(module)) == own, "accelerate renamed _old_forward"
    hook.hook.pre_forward = lambda *args: calls.append(args)
    private.bring_to_gpu(module)
    assert calls == [(module,)], "accelerate's CpuOffload is another class now"


def test_the_module_inside_a_compiled_one_is_found():
    module = torch.nn.Linear(2, 2)
    compiled = torch.compile(module)
    assert private.uncompiled(compiled) is module, "torch renamed _orig_mod"
    assert private.uncompiled(module) is module


def test_the_processor_says_whether_it_has_matrix_units():
    assert hasattr(torch.cpu, "_is_amx_tile_supported"), "torch renamed it: AMX would stay unused"
    flags = Path("/proc/cpuinfo")
    if flags.exists():
        assert private.has_matrix_units() == ("amx_tile" in flags.read_text())


def test_averages_move_to_their_values():
    average = [torch.zeros(2), torch.ones(3)]
    private.lerp_all(average, [torch.ones(2), torch.zeros(3)], 0.25)
    assert average[0].tolist() == [0.25] * 2 and average[1].tolist() == [0.75] * 3


@pytest.mark.parametrize("dtype", kernels.DTYPES)
@pytest.mark.parametrize("masked", [False, True])
def test_the_processors_attention_kernel_still_returns_its_log_sum_exp(dtype, masked):
    """It is taken without a trial, as the one that this package was made with."""
    inputs = kernels._small_attention(torch.device("cpu"), dtype, masked, wide=False)
    assert kernels._right(kernels._cpu, inputs), (
        "torch changed _scaled_dot_product_flash_attention_for_cpu"
    )


def test_torch_says_which_attention_kernel_it_would_choose():
    x = torch.randn(1, 4, 5, 8)
    assert kernels._candidates(Inputs(x, x, x)) == [kernels._cpu]
    assert SDPBackend(torch._fused_sdp_choice(x, x, x, None)) == SDPBackend.FLASH_ATTENTION, (
        "torch changed _fused_sdp_choice: on a GPU NAG no longer takes the fastest kernel"
    )


def test_a_page_has_the_queue_that_we_stand_before():
    changed = "gradio changed its queue: whoever asks might be served past it"
    with gr.Blocks() as page:
        gr.Button().click(print, concurrency_id="engine")
    page.queue()
    queue = private.queue_of(page)
    assert list(inspect.signature(queue.push).parameters) == ["body", "request", "username"], (
        changed
    )
    assert private.waiting_events(page, "engine") == [], changed
    queue.create_event_queue_for_fn(next(iter(page.fns.values())))
    queue.event_queue_per_concurrency_id["engine"].queue.append("waiting")
    assert private.waiting_events(page, "engine") == ["waiting"], changed


def test_a_page_looks_at_inputs_and_answers_where_ours_does():
    changed = "gradio changed a method that nag/page/blocks.py stands in for"
    for name, arguments in {
        "preprocess_data": ["self", "block_fn", "inputs", "state", "explicit_call"],
        "process_api": ["self", "block_fn", "inputs"],
    }.items():
        found = list(inspect.signature(getattr(gr.Blocks, name)).parameters)
        assert found[: len(arguments)] == arguments, changed


def test_a_change_in_place_is_counted():
    tensor = torch.zeros(2)
    before = private.changes_of(tensor)
    tensor.add_(1)
    assert private.changes_of(tensor) > before, "torch no longer counts changes in `_version`"
    with torch.inference_mode():
        assert private.changes_of(torch.zeros(2)) == 0


def test_an_event_of_the_page_carries_what_the_browser_sent():
    assert private.event_data(gr.EventData(None, {"set": 1})) == {"set": 1}, (
        "gradio renamed EventData._data, by which the page's buttons say what was asked"
    )
    assert private.event_data(gr.EventData(None, None)) == {}


def test_a_component_is_known_as_a_visitor_has_it():
    with gr.Blocks() as demo:
        number = gr.Slider(0, 1)
    state = SessionState(demo)
    assert private.as_visitor_has_it(None, number) is number
    state[number._id] = moved = gr.Slider(0, 9)
    assert private.as_visitor_has_it(state, number) is moved, "gradio renamed Block._id"
