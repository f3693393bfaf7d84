"""The flags of a training run: every setting is one, and --recipe and --config set several."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields
from typing import Any, Sequence

from dist_ft import cli, settings_file
from dist_ft.config import GROUPS, Config
from dist_ft.settings import ConfigError, declared_type, flag_of, item_type


def parse(argv: Sequence[str] | None = None) -> Config:
    """The Config of a command line (default: that of this process).

    Flags win over the --config file, the file over the recipe, and the recipe over the defaults.
    Exits with status 2 and a line for each problem if the settings cannot be used, and with 0
    after --show.
    """
    parser = _settings_parser()
    flags = vars(parser.parse_args(argv))
    path, recipe, is_shown = (flags.pop(name) for name in ("config", "recipe", "show"))
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in flags.items() if v is not None}
    try:
        file = settings_file.read_settings(path) if path else {}
        name_in_file = file.pop(settings_file.RECIPE, settings_file.RECIPES[0])
        recipe = recipe or name_in_file
        layers = {
            f"--recipe {recipe}": settings_file.read_recipe(recipe),
            f"--config {path}": file,
            "a flag": given,
        }
        config = Config(**{k: v for layer in layers.values() for k, v in layer.items()})
    except ConfigError as error:
        return cli.exit_for_settings(parser, error)
    if is_shown:
        sources = {name: source for source, layer in layers.items() for name in layer}
        with cli.standard_output():
            print(settings_file.as_yaml(config, sources))
        parser.exit()
    return config


def _settings_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dist_ft",
        usage="python -m dist_ft.train [--recipe NAME] [--config FILE] [--data DIR] [settings]",
        description="Fine-tune a pretrained image classifier on a folder of images. Run it under "
        "'horovodrun -np N' to train with N processes.",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    recipes = "{" + ",".join(settings_file.RECIPES) + "}"
    flag("--recipe", metavar=recipes, help="settings that belong together (default: original)")
    flag("--config", metavar="FILE", help="YAML file of settings, named as below; wins over them")
    flag("--show", action="store_true", help="only print the settings, as such a file")
    for settings in GROUPS:
        group = parser.add_argument_group(settings.__doc__)
        for f in fields(settings):
            _add_flag(group, f)
    return parser


def _add_flag(group: Any, f: Field) -> None:
    choices, flag, declared = f.metadata["choices"], flag_of(f.name), declared_type(f)
    has_default = f.default not in (None, (), "") and f.default is not False
    default = f"{f.default:g}" if declared == "float" else f.default  # 1.33333, 64
    help = f.metadata["help"] + (f" (default: {default})" if has_default else "")
    # Flags have no defaults, so that the file's values count; Config checks choices, of both.
    if declared == "bool":
        group.add_argument(flag, type=_boolean, nargs="?", const=True, metavar="yes|no", help=help)
    elif declared.startswith("tuple"):
        item: type = str if item_type(declared) == "str" else float
        group.add_argument(
            flag, action="append", type=item, metavar="X", help=help + "; repeatable"
        )
    else:
        item = {"int": int, "str": str}.get(declared, float)
        metavar = "{" + ",".join(choices) + "}" if choices else f.name[0].upper()
        group.add_argument(flag, type=item, metavar=metavar, help=help)


def _boolean(text: str) -> bool:
    if text not in ("yes", "true", "no", "false"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither yes nor no")
    return text in ("yes", "true")
