"""What a GRPO step costs: memory of one GPU and time of one step, from a few sizes. Estimates, not measurements."""

from pydantic import BaseModel, ConfigDict, Field

GIB = 2**30


class Model(BaseModel):
    """The sizes of a decoder that memory and time depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    parameters: float = Field(gt=0, description="all of them")
    layers: int = Field(ge=1)
    width: int = Field(ge=1)
    key_value_width: int = Field(ge=1, description="key-value heads times their size")
    vocabulary: int = Field(ge=1)


# Sizes as the models' published configurations give them.
MODELS = (
    Model(name="Qwen2.5-0.5B", parameters=0.49e9, layers=24, width=896, key_value_width=128, vocabulary=151_936),
    Model(name="Qwen2.5-1.5B", parameters=1.54e9, layers=28, width=1536, key_value_width=256, vocabulary=151_936),
    Model(name="Qwen2.5-3B", parameters=3.09e9, layers=36, width=2048, key_value_width=256, vocabulary=151_936),
    Model(name="Qwen2.5-7B", parameters=7.62e9, layers=28, width=3584, key_value_width=512, vocabulary=152_064),
    Model(name="Qwen2.5-14B", parameters=14.77e9, layers=48, width=5120, key_value_width=1024, vocabulary=152_064),
)


class Load(BaseModel):
    """What is done with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpus: int = Field(default=8, ge=1)
    tokens: int = Field(default=8192, ge=1, description="prompt and response of one sequence")
    sequences: int = Field(default=1, ge=1, description="trained at a time on one GPU")
    responses: int = Field(default=1024, ge=1, description="in a batch, over all GPUs")
    concurrent: int = Field(default=32, ge=1, description="sequences that one GPU generates at a time")


def memory(model: Model, load: Load) -> dict[str, float]:
    """GiB on each GPU, by use, for ZeRO-3 with bfloat16 training, AdamW and checkpointed layers, vLLM on the same GPU.

    weights, gradients: 2 bytes a parameter, sharded; optimizer: 12 (float32 master copy and two moments), sharded;
    one layer gathered: 2 bytes a parameter of a layer; checkpoints: 2 bytes a token, width and layer; generation
    weights: 2 bytes a parameter, whole; key-value cache: 2 tensors of 2 bytes a token, layer and key-value width;
    logits: 2 bytes a token and word, kept for backward, besides their gradient, where the head is not fused.
    """
    sharded = model.parameters / load.gpus
    tokens = load.tokens * load.sequences
    uses = {
        "weights": 2 * sharded,
        "gradients": 2 * sharded,
        "optimizer": 12 * sharded,
        "one layer gathered": 2 * model.parameters / model.layers,
        "checkpoints": 2 * tokens * model.width * model.layers,
        "generation weights": 2 * model.parameters,
        "key-value cache": 4 * load.concurrent * load.tokens * model.layers * model.key_value_width,
        "logits and their gradient": 2 * 2 * tokens * model.vocabulary,
    }
    return {name: size / GIB for name, size in uses.items()}


def statistics_memory(model: Model, load: Load) -> dict[str, float]:
    """GiB that Clip_V's expectation takes beyond the logits: two float32 copies of them, or one pass in chunks."""
    logits = load.tokens * load.sequences * model.vocabulary
    return {"probabilities and their logs, float32": 2 * 4 * logits / GIB, "one pass": 2**18 * 4 * 3 / GIB}


def seconds_per_step(
    model: Model, load: Load, *, flops: float = 989e12, training: float = 0.4, generation: float = 0.1
) -> dict[str, float]:
    """Seconds of one step on all GPUs.

    Operations a parameter and token: 2 to generate, 2 for the statistics, 6 to train and 2 for checkpointed layers.

    Args:
        flops: of one GPU, dense bfloat16; an H100's data sheet says 989e12.
        training, generation: the share of them that is reached; assumptions.
    """
    work = model.parameters * load.tokens * load.responses / (load.gpus * flops)
    return {"generation": 2 * work / generation, "statistics": 2 * work / training, "training": 8 * work / training}
