"""How llama.cpp is to run a model: what `smallhold models tune` chooses among, in one record."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FlashAttention = Literal["auto", "on", "off"]
KvType = Literal["f16", "q8_0"]

# llama.cpp's own numbers: enum llama_flash_attn_type, enum ggml_type.
_FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
_KV_TYPE = {"f16": 1, "q8_0": 8}


class Tuning(BaseModel):
    """Settings of a llama.cpp context; the defaults are what runs where nothing was measured.

    `threads` 0 takes all cores. `batch` prompt tokens are read in one step while answers are written, which wait for
    it: at some 100 tokens a second and more, the 128 take about a second; else `alone` are. llama.cpp computes them
    `micro_batch` at a time, where that is not less than `batch` all at once. An answer guesses up to `lookup` tokens
    ahead, those that its last ones are followed by in the prompt; 0 guesses none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads: int = Field(0, ge=0, le=1024)
    batch: int = Field(128, ge=1, le=8192)
    micro_batch: int = Field(128, ge=1, le=8192)
    flash_attention: FlashAttention = "auto"
    kv_type: KvType = "f16"
    lookup: int = Field(0, ge=0, le=16)

    @model_validator(mode="after")
    def _llama_cpp_takes_it(self) -> "Tuning":
        if self.micro_batch > self.batch:
            raise ValueError("micro_batch must not be larger than batch")
        if self.kv_type != "f16" and self.flash_attention != "on":
            raise ValueError("quantized values need flash attention on")
        return self

    @property
    def alone(self) -> int:
        """How many prompt tokens are read in one step that no answer waits for.

        512 at once took 6 to 14% less than four times 128; but a prompt that comes meanwhile waits, too.
        """
        return 4 * self.batch

    @property
    def writable(self) -> bool:
        """Whether the cache holds keys and values as plain numbers, token after token: others can write them, too."""
        return self.kv_type == "f16" and self.flash_attention != "off"

    def fill(self, parameters: Any, cores: int) -> None:
        """Set the fields of llama.cpp's context parameters on a machine with so many `cores`."""
        parameters.n_batch = self.batch
        parameters.n_ubatch = self.micro_batch
        parameters.n_threads = parameters.n_threads_batch = self.threads or cores
        parameters.flash_attn_type = _FLASH_ATTENTION[self.flash_attention]
        parameters.type_k = parameters.type_v = _KV_TYPE[self.kv_type]


UNTUNED = Tuning()
