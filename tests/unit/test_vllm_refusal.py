"""What is said of a configuration that vLLM refuses."""

import pydantic
import pytest

from engines.vllm_engine.compat import refusal


class Config(pydantic.BaseModel):
    dtype: str = "auto"
    length: int = 1

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Config":
        if self.length > 10:
            raise ValueError("length (11) is greater than 10")
        return self


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"length": 11}, "length (11) is greater than 10"),
        ({"dtype": 1}, "dtype: Input should be a valid string"),
    ],
)
def test_a_failed_validation_says_what_is_wrong(given: dict[str, object], said: str) -> None:
    with pytest.raises(pydantic.ValidationError) as raised:
        Config.model_validate(given)
    assert refusal(raised.value) == said


def test_any_other_error_says_its_first_line_or_its_kind() -> None:
    assert refusal(OSError("no such model\nand more")) == "no such model"
    assert refusal(ValueError()) == "ValueError"
