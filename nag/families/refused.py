"""Denoiser classes that NAG cannot guide, and why."""

INNER_PART = "it is an inner part of other models."
REFUSED = {
    # class: why NAG cannot guide it as it is
    "UNet1DModel": "it takes no words.",
    "UNet2DModel": "it takes no words.",
    "T5FilmDecoder": "it takes no words.",
    "MotionAdapter": INNER_PART,
    "TransformerTemporalModel": INNER_PART,
    "Flux3Transformer2DModel": (
        "diffusers runs FLUX.3 with modular blocks only, one of which encodes the prompt, so "
        "there is no encode_prompt to listen to."
    ),
    "GlmImageTransformer2DModel": (
        "all it reads as text are the words between quotation marks; the rest of a prompt "
        "reaches it as image tokens drawn by a language model, so a negative prompt has nothing "
        "to steer."
    ),
    "OmniGenTransformer2DModel": (
        "its pipeline has no text encoder that NAG could ask for the negative prompt: words go "
        "in as token ids, in one causal sequence with the pictures."
    ),
    "Kandinsky6SRTransformer3DModel": (
        "it enlarges a video and never sees a text, so there is nothing to steer away from."
    ),
    "Cosmos3OmniTransformer": (
        "its text is token ids in one sequence with the video, whose positions count on from "
        "the text's, and its pipeline has no encode_prompt, so a second text cannot be put "
        "beside the first from outside."
    ),
    "MiniMaxH3Transformer3DModel": (
        "it runs in modular pipelines only, which have no encode_prompt, and places text, video "
        "and sound by index tables made elsewhere, so there is no place to bring in a second "
        "text."
    ),
    "WanAnimate2Transformer3DModel": (
        "its modular pipeline has no encode_prompt, so NAG cannot listen to its words."
    ),
    "MiniMaxMusic3Transformer1DModel": (
        "it adds its text to the latents frame by frame and has no attention that sees text."
    ),
    "MiniMaxMusic3RVQDepthDecoder": "it writes audio codes one by one and denoises nothing.",
    "LongCatAudioDiTTransformer": (
        "it averages its text into the modulation in the midst of its forward, so a negative "
        "text would change more than attention."
    ),
    "UNetSpatioTemporalConditionModel": "it is told by a picture what to show, and not by words.",
    "UVit2DModel": (
        "aMUSEd encodes its words inside the pipeline's call and has no encode_prompt, so NAG "
        "cannot listen to them."
    ),
    "PriorTransformer": (
        "it makes one embedding of words, and no image whose tokens could look at two texts."
    ),
    "DiTTransformer2DModel": "it is told by a class number what to show, and not by words.",
    "RFD4ProteinaTransformer": "it designs proteins, and no words tell it what to make.",
    "Transformer2DModel": INNER_PART,
    "DreamLiteTransformer2DModel": "it is an inner part of a DreamLiteUNetModel.",
}


def _instead(pipeline: str) -> str:
    return f"guide {pipeline}.from_pipe(pipe) instead, which has the same parts."


OWN_PROCESSORS = "while it runs it puts processors of its own into the layers that see the text; "
NO_PROMPT = "its encode_prompt takes the words in another form than that of a prompt, so "
PIPELINES = {
    # class: why NAG cannot guide it, though it could guide its denoiser
    "StableDiffusion3PAGPipeline": OWN_PROCESSORS + _instead("StableDiffusion3Pipeline"),
    "StableDiffusion3PAGImg2ImgPipeline": (
        OWN_PROCESSORS + _instead("StableDiffusion3Img2ImgPipeline")
    ),
    "StableDiffusionAttendAndExcitePipeline": (
        OWN_PROCESSORS + _instead("StableDiffusionPipeline")
    ),
    "StableDiffusionPix2PixZeroPipeline": OWN_PROCESSORS + _instead("StableDiffusionPipeline"),
    "TextToVideoZeroPipeline": OWN_PROCESSORS + _instead("StableDiffusionPipeline"),
    "TextToVideoZeroSDXLPipeline": OWN_PROCESSORS + _instead("StableDiffusionXLPipeline"),
    "LEditsPPPipelineStableDiffusion": NO_PROMPT + _instead("StableDiffusionPipeline"),
    "LEditsPPPipelineStableDiffusionXL": NO_PROMPT + _instead("StableDiffusionXLPipeline"),
    "VisualClozeGenerationPipeline": NO_PROMPT + _instead("FluxFillPipeline"),
    "VisualClozePipeline": NO_PROMPT + _instead("FluxFillPipeline"),
}
