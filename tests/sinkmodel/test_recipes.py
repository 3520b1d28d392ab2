"""Configurations: recipes, TOML, overrides, and one-line errors for what cannot be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from manifests.errors import InputError
from sinkmodel.recipes import RECIPES, TrainConfig, configure


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_valid_and_named(name: str) -> None:
    config = configure(name)
    assert config == RECIPES[name]()
    assert config.hidden_size % config.num_attention_heads == 0


def test_overrides_come_after_toml(tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text("epochs = 3\nlearning_rate = 1e-3\nbackbone_exposures = inf\n")
    config = configure("demo", toml=toml, overrides=["epochs=5", "tokenizer=none"])
    assert (config.epochs, config.learning_rate, config.tokenizer) == (5, 1e-3, None)
    assert math.isinf(config.backbone_exposures)
    assert config.to_json()["backbone_exposures"] == "inf"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=2", "training option 'epoch': expected one of base, hidden_size"),
        ("epochs", "--set 'epochs': expected key=value, found no equals sign"),
        ("epochs=two", "training option epochs: expected a value of type int, found 'two'"),
        ("epochs=0", "training option epochs: expected a number above 0, found 0"),
        ("hidden_size=97", "expected a multiple of num_attention_heads, found 97"),
        ("precision=fp8", "training option precision: expected no or bf16, found 'fp8'"),
        ("warmup=1", "training option warmup: expected a share in [0, 1), found 1.0"),
        ("weight_decay=nan", "expected a number of 0 or more, found nan"),
        ("accumulation=0", "training option accumulation: expected a number above 0, found 0"),
        ("tracker=wandb", "expected none or jsonl or tensorboard, found 'wandb'"),
        ("context_length=4", "expected at least 8 tokens, found 4"),
    ],
)
def test_wrong_options_are_named(override: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        configure("demo", overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_recipe_and_broken_toml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recipe 'dmeo': expected one of demo"):
        configure("dmeo")
    broken = tmp_path / "broken.toml"
    broken.write_text("epochs = = 2")
    with pytest.raises(InputError, match="expected a readable TOML file"):
        configure("demo", toml=broken)
    broken.write_text("epochs = true")
    with pytest.raises(InputError, match="expected a value of type int, found True"):
        configure("demo", toml=broken)
    with pytest.raises(InputError, match="expected a readable TOML file"):
        configure("demo", toml=tmp_path / "none.toml")


def test_config_is_frozen() -> None:
    with pytest.raises(AttributeError):
        TrainConfig().epochs = 2  # type: ignore[misc]
