"""What a site demands of its users: its poll floor and its protected options, which later layers only tighten."""

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator import settings
from orchestrator.errors import BadSettings
from orchestrator.settings import Settings, tightened

SHIPPED_FLOOR = 2.0


class Layers:
    """The site's file, the home's, and the environment."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.home = folder / "site", folder / "home"
        for path in (self.site, self.home):
            path.mkdir()
        self._environment = monkeypatch
        monkeypatch.setattr(settings, "SITE_FOLDER", self.site)
        for name in list(os.environ):
            if name.startswith("ORC_"):
                monkeypatch.delenv(name)
        monkeypatch.setenv("ORC_HOME", str(self.home))

    def write(self, layer: str, text: str) -> None:
        if layer == "environment":
            for line in text.splitlines():
                name, _, value = line.partition(" = ")
                self._environment.setenv(f"ORC_{name.upper()}", value)
        else:
            (getattr(self, layer) / "config.toml").write_text(text)

    def read(self, **given: Any) -> Settings:
        return Settings(**given)


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layers:
    return Layers(tmp_path, monkeypatch)


def test_without_a_site_the_shipped_defaults_are_in_force(layers: Layers) -> None:
    assert tightened(layers.home) == (0.0, set())
    assert (layers.read().slurm_poll_floor_seconds, layers.read().slurm_protected_options) == (SHIPPED_FLOOR, [])


@pytest.mark.parametrize(
    ("layer", "text", "words"),
    [
        ("environment", "notify_webhooks = http://secret", "Setting notify_webhooks: ORC_NOTIFY_WEBHOOKS is not JSON"),
        ("environment", "port = many", "Setting port: Input should be a valid integer"),
        ("home", "prot = 8000", "There is no setting prot (config.toml): did you mean port?"),
        ("home", "port = [", "home/config.toml is not TOML: Invalid value"),
    ],
)
def test_what_cannot_be_set_is_told_in_words(layers: Layers, layer: str, text: str, words: str) -> None:
    layers.write(layer, text)
    with pytest.raises(BadSettings) as caught:
        settings.load()
    assert words in caught.value.message
    assert "secret" not in caught.value.message


def test_where_the_site_says_nothing_a_user_may_lower_our_own_floor(layers: Layers) -> None:
    layers.write("home", "slurm_poll_floor_seconds = 0.5")
    assert layers.read().slurm_poll_floor_seconds == 0.5


@pytest.mark.parametrize("layer", ["home", "environment"])
@pytest.mark.parametrize(("asked", "floor"), [(1, 10.0), (0.2, 10.0), (10, 10.0), (25, 25.0)])
def test_a_sites_floor_is_only_raised(layers: Layers, layer: str, asked: float, floor: float) -> None:
    layers.write("site", "slurm_poll_floor_seconds = 10")
    layers.write(layer, f"slurm_poll_floor_seconds = {asked}")
    assert layers.read().slurm_poll_floor_seconds == floor


def test_a_sites_floor_holds_against_what_is_given_in_code(layers: Layers) -> None:
    layers.write("site", "slurm_poll_floor_seconds = 10")
    assert layers.read(slurm_poll_floor_seconds=1).slurm_poll_floor_seconds == 10.0


def test_a_sites_floor_below_our_own_is_the_sites_decision(layers: Layers) -> None:
    layers.write("site", "slurm_poll_floor_seconds = 1")
    assert layers.read().slurm_poll_floor_seconds == 1.0


def test_protected_options_of_all_layers_count_together(layers: Layers) -> None:
    layers.write("site", 'slurm_protected_options = ["mail-user", "wckey"]')
    layers.write("home", 'slurm_protected_options = ["hold"]')
    layers.write("environment", 'slurm_protected_options = ["wckey", "requeue"]')
    assert layers.read().slurm_protected_options == ["hold", "mail-user", "requeue", "wckey"]
    assert tightened(layers.home)[1] == {"hold", "mail-user", "wckey"}


@pytest.mark.parametrize("layer", ["home", "environment"])
def test_a_later_layer_cannot_take_a_protected_option_back(layers: Layers, layer: str) -> None:
    layers.write("site", 'slurm_protected_options = ["mail-user"]')
    layers.write(layer, "slurm_protected_options = []")
    assert layers.read().slurm_protected_options == ["mail-user"]


@pytest.mark.parametrize("given", [[], ["hold"]])
def test_what_is_given_in_code_cannot_either(layers: Layers, given: list[str]) -> None:
    layers.write("site", 'slurm_protected_options = ["mail-user"]')
    assert layers.read(slurm_protected_options=given).slurm_protected_options == sorted(["mail-user", *given])


def test_the_sites_word_holds_for_every_home(layers: Layers, tmp_path: Path) -> None:
    layers.write("site", 'slurm_poll_floor_seconds = 10\nslurm_protected_options = ["mail-user"]')
    found = layers.read(home=tmp_path / "another")
    assert (found.slurm_poll_floor_seconds, found.slurm_protected_options) == (10.0, ["mail-user"])


def test_a_site_may_speak_of_one_thing_only(layers: Layers) -> None:
    layers.write("site", "port = 9999")
    assert tightened(layers.home) == (0.0, set())
    assert (layers.read().port, layers.read().slurm_poll_floor_seconds) == (9999, SHIPPED_FLOOR)


def test_a_ceiling_below_the_floor_is_no_way_around_it(layers: Layers) -> None:
    layers.write("site", "slurm_poll_floor_seconds = 60")
    found = layers.read()
    assert found.slurm_poll_ceiling_seconds >= found.slurm_poll_floor_seconds
