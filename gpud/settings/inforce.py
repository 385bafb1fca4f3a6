"""The settings in force, as people see them: each with its value, where that was said, and what it means."""

from dataclasses import asdict, is_dataclass

from gpud.core.world import World
from gpud.model.units import format_duration, format_size
from gpud.model.window import Pool
from gpud.settings import forms
from gpud.settings.config import TABLE, Config
from gpud.settings.forms import Form
from gpud.wire.administration import SettingMap


def settings_maps(config: Config, world: World, *, secrets: bool) -> list[SettingMap]:
    """Return every setting as it is in force, and where that was said; whom to tell of alerts only with `secrets`."""
    origins = dict(config.origins)
    # Not what the world goes by: that takes a new configuration with its next decision.
    chosen = {**world.choice.parameters, "policy": world.choice.policy or config.policy}
    found: list[SettingMap] = []
    for key, each in TABLE.items():
        form, value, source = each.metadata["kind"], getattr(config, each.name), origins.get(key, "default")
        if key in chosen and chosen[key] != value:
            value, source = chosen[key], "gpuctl policy"
        hidden = form is forms.TARGETS and bool(value) and not secrets
        found.append(
            {
                "key": key,
                "value": None if hidden else _plain(value),
                "written": None if hidden else _written(form, value),
                "source": source,
                "live": each.metadata["live"],
                "hidden": hidden,
                "form": form.shown or "yes or no",
                "help": each.metadata["help"],
            }
        )
    return found


def _plain(value: object) -> object:
    """Return a setting as it travels."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(inner) for key, inner in asdict(value).items()}
    return [_plain(inner) for inner in value] if isinstance(value, (tuple, list)) else value


def _written(form: Form, value: object) -> str:
    """Return a setting as people read it: a duration with units, yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "unlimited" if form is forms.SIZE else "none"
    if isinstance(value, (int, float)) and form.shown == forms.DURATION.shown:
        return format_duration(value)
    if isinstance(value, int) and form is forms.SIZE:
        return format_size(value)
    if isinstance(value, tuple):
        return ", ".join(map(_item, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _item(value: object) -> str:
    match value:
        case Pool(name=name, gpus=gpus):
            return f"{name}: {' '.join(gpus)}"
        case (str(name), tuple(labels)):
            return f"{name}: {' '.join(map(_item, labels))}"
        case (str(name), *rest):
            return f"{name}={' '.join(map(str, rest))}"
        case _:
            return str(value)
