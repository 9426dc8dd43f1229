"""Settings, by layers; made once, passed in, never a global.

config/default.toml < /etc/orc/config.toml < $ORC_HOME/config.toml < ORC_<NAME>.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from orchestrator import home as home_files
from orchestrator.data import shipped
from orchestrator.errors import BadSettings
from orchestrator.strict import meant

SITE_FOLDER = Path("/etc/orc")
SECRET = frozenset({"notify_webhooks", "notify_apprise", "notify_secret"})  # never shown; addresses may hold secrets


class Settings(BaseSettings):
    """Everything that can be set. Times in seconds."""

    model_config = SettingsConfigDict(env_prefix="ORC_", extra="forbid", frozen=True, hide_input_in_errors=True)

    home: Path = Field(default_factory=home_files.default_home)
    database_url: str = ""
    runs_dir: Path = Path()
    default_workdir: Path = Field(default_factory=Path.cwd)
    host: str
    port: int = Field(ge=0, le=65535)
    allowed_hosts: list[str]

    stop_grace_seconds: float = Field(gt=0, le=3600)
    idle_exit_seconds: float = Field(gt=0)
    probe_deadline_seconds: float = Field(gt=0, le=600)
    redetect_seconds: float = Field(ge=1)

    local_cpus: int = Field(default_factory=lambda: len(os.sched_getaffinity(0)), ge=1)
    gpu_lease_dir: Path | None = None
    gpu_ids: Literal["uuid", "index"]
    gpu_memory_threshold_mib: int = Field(ge=0)
    gpu_reserve_after: float = Field(ge=0)
    gpu_busy_retry_seconds: float = Field(ge=0)

    slurm_poll_floor_seconds: float = Field(ge=0.2, le=600)
    slurm_poll_ceiling_seconds: float = Field(ge=1, le=3600)
    slurm_command_deadline_seconds: float = Field(ge=1, le=300)
    slurm_submit_deadline_seconds: float = Field(ge=1, le=600)
    slurm_heartbeat_seconds: float = Field(ge=0.2, le=600)
    slurm_lost_after_seconds: float = Field(ge=1, le=86_400)
    slurm_protected_options: list[str]
    slurm_pyslurm: bool

    require_plan: bool
    alert_look_seconds: float = Field(ge=0.05, le=3600)
    alert_failed: bool
    alert_nonfinite: bool
    alert_no_progress_seconds: float = Field(ge=0)
    alert_pending_seconds: float = Field(ge=0)
    alert_idle_gpu_percent: float = Field(ge=0, le=100)
    alert_idle_gpu_seconds: float = Field(ge=0)
    alert_budget_share: float = Field(ge=0, le=1)
    notify_webhooks: list[str] = Field(repr=False)
    notify_apprise: list[str] = Field(repr=False)
    notify_secret: str = Field(repr=False)
    notify_severity: Literal["info", "warning", "critical"]

    max_command_bytes: int = Field(ge=1, le=2_000_000)
    snapshot_max_bytes: int = Field(ge=1)
    snapshot_max_files: int = Field(ge=1)
    max_sweep_runs: int = Field(ge=1)
    max_artifact_listing: int = Field(ge=1)
    env_pass: list[str]

    def model_post_init(self, _context: Any, /) -> None:
        """Fills in what depends on ``home``."""
        home = self.home.expanduser().absolute()
        object.__setattr__(self, "home", home)
        runs_dir = self.runs_dir if self.runs_dir != Path() else home / "runs"
        object.__setattr__(self, "runs_dir", runs_dir.expanduser().absolute())
        floor, protected = tightened(home)
        object.__setattr__(self, "slurm_poll_floor_seconds", max(floor, self.slurm_poll_floor_seconds))
        ceiling = max(self.slurm_poll_ceiling_seconds, self.slurm_poll_floor_seconds)
        object.__setattr__(self, "slurm_poll_ceiling_seconds", ceiling)
        object.__setattr__(self, "redetect_seconds", max(self.redetect_seconds, self.slurm_poll_floor_seconds))
        object.__setattr__(self, "slurm_protected_options", sorted({*protected, *self.slurm_protected_options}))
        if not self.database_url:
            object.__setattr__(self, "database_url", f"sqlite:///{home / 'orc.db'}")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  (the hook's own signature)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The layers, strongest first."""
        given = init_settings().get("home") or EnvSettingsSource(settings_cls)().get("home")
        home = Path(given) if given else home_files.default_home()
        files = (_read(settings_cls, path) for _, path in toml_layers(home))
        return (init_settings, env_settings, *files)


def load(**given: Any) -> Settings:
    """The settings in force. ``given``: what goes before all. Raises BadSettings, which names each that cannot be."""
    try:
        return Settings(**given)
    except ValidationError as error:
        told = [_told(".".join(map(str, item["loc"])), item) for item in error.errors()]
    except SettingsError as error:  # its words name the setting, and not the value
        found = re.search(r'field "(\w+)"', str(error))
        name = found[1] if found else "?"
        told = [f'Setting {name}: ORC_{name.upper()} is not JSON, as lists are in the environment: ["…", "…"].']
    raise BadSettings("\n".join(told))


def _told(name: str, item: Any) -> str:
    if item["type"] != "extra_forbidden":
        return f"Setting {name}: {item['msg']} (ORC_{name.upper()} or config.toml)"
    return f"There is no setting {name} (config.toml){meant(name, list(Settings.model_fields))}"


def _read(settings: type[BaseSettings], path: Path) -> TomlConfigSettingsSource:
    """A layer. Raises BadSettings."""
    try:
        return TomlConfigSettingsSource(settings, path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not TOML: {error}.") from None


def toml_layers(home: Path) -> list[tuple[str, Path]]:
    """The TOML files, strongest first, each with the name that ``orc doctor`` shows."""
    return [
        ("home", home / "config.toml"),
        ("site", SITE_FOLDER / "config.toml"),
        ("default", shipped("config") / "default.toml"),
    ]


def tightened(home: Path) -> tuple[float, set[str]]:
    """What the layers together demand: the highest poll floor of the site's and ours, all protected options."""
    floor, protected = 0.0, set[str]()
    for name, path in toml_layers(home):
        layer = TomlConfigSettingsSource(Settings, path)()
        if name == "site":
            floor = max(floor, float(layer.get("slurm_poll_floor_seconds", 0.0)))
        protected |= set(layer.get("slurm_protected_options", []))
    return floor, protected


def provenance(settings: Settings) -> dict[str, tuple[Any, str]]:
    """Each setting's value and the layer that it came from."""
    layers: list[tuple[str, set[str]]] = [("environment", set(EnvSettingsSource(Settings)()))]
    layers += [
        (f"{name} ({path})", set(TomlConfigSettingsSource(Settings, path)()))
        for name, path in toml_layers(settings.home)
    ]
    found: dict[str, tuple[Any, str]] = {}
    for name in Settings.model_fields:
        origin = next((layer for layer, names in layers if name in names), "computed")
        found[name] = (getattr(settings, name), origin)
    return found
