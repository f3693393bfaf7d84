"""The runs of benchmarks/recipes.py, and the tables that compare them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

from benchmarks.recipe_data import ALL, FEW, RARE, WRONG
from dist_ft.config import Config
from dist_ft.settings_file import read_recipe, read_settings

DIST_FT, SPEED, PYTORCH = "dist_ft_recipe", "dist_ft_bench", "pytorch_recipe"  # programs
RANKS = 1  # processes of a run, except of those that compare numbers of ranks
SHORT, LONG = 8, 20  # epochs
ROUNDS = 5  # of the measurements of speed

# Settings of the strong recipe that PyTorch gets, besides those of its own recipe.
SAME_IN_PYTORCH = ("epochs", "batch_size", "lr", "head_lr_mult")
# Settings of which one is of no use without the other.
COUPLED = (("optimizer", "momentum"),)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only."""

    settings: Mapping[str, Any]  # of dist_ft.train, besides data, weights and seed
    num_seeds: int = 3
    data: str = ALL
    program: str = DIST_FT
    num_ranks: int = RANKS


class Run(NamedTuple):
    group_name: str
    group: Group
    seed: int

    @property
    def name(self) -> str:
        number = "round" if self.group.program == SPEED else "seed"
        return f"{self.group_name}, {number} {self.seed}"

    @property
    def spec(self) -> dict[str, Any]:
        """What identifies the run, as plain values: a result is used again if it is the same."""
        group = self.group
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in group.settings.items()}
        return {
            "program": group.program,
            "data": group.data,
            "num_ranks": group.num_ranks,
            "settings": {**settings, "seed": self.seed},
        }


class Comparison(NamedTuple):
    """A table of groups; each is compared with the first one."""

    title: str
    metric: str  # of the results
    group_names: Sequence[str]


def all_groups() -> dict[str, Group]:
    """By name, in the order in which they should run."""
    original, strong = ({**read_recipe(n), "epochs": SHORT} for n in ("original", "strong"))
    both = {"original": original, "strong": strong}
    groups = {f"{name}, {SHORT} epochs": Group(both[name]) for name in both}
    groups.update((f"speed, {name}", Group(both[name], ROUNDS, program=SPEED)) for name in both)
    groups.update(
        (f"{name}, {LONG} epochs", Group({**both[name], "epochs": LONG}, 1)) for name in both
    )
    groups.update((f"{name}, 10 % of the images", Group(both[name], data=FEW)) for name in both)
    groups.update((f"{name}, 20 % wrong labels", Group(both[name], data=WRONG)) for name in both)
    for flags in ({}, {"balance": True}, {"class_weights": "balanced"}):
        name = ", ".join(["strong, one class of 5 %", *(f.replace("_", " ") for f in flags)])
        groups[name] = Group({**strong, **flags}, data=RARE)
    groups.update(
        (f"strong, {n} ranks", Group(strong, 1, num_ranks=n)) for n in (1, 2, 4) if n != RANKS
    )
    same = {name: getattr(Config(**strong), name) for name in SAME_IN_PYTORCH}
    groups.update(
        (f"PyTorch, {part}", Group({**same, "part": part}, program=PYTORCH))
        for part in ("reference", "light")
    )
    for keys in parts_of_strong():
        rest = {name: value for name, value in strong.items() if name not in keys}
        groups[without(keys)] = Group(rest, 1)
    return groups


def parts_of_strong() -> list[tuple[str, ...]]:
    """The settings of the strong recipe that the original one does not have, those that belong
    together as one."""
    changed = read_recipe("strong")
    parts = [tuple(name for name in coupled if name in changed) for coupled in COUPLED]
    parts += [(name,) for name in changed if not any(name in part for part in parts)]
    return [part for part in parts if part]


def without(keys: Sequence[str]) -> str:
    return f"strong without {' and '.join(key.replace('_', ' ') for key in keys)}"


def comparisons() -> list[Comparison]:
    test, names = "test_accuracy", list(all_groups())
    rare = [name for name in names if "one class" in name]
    ranks = [name for name in names if name.endswith(" ranks")]
    strong = f"strong, {SHORT} epochs"
    return [
        *(
            Comparison(title, test, [f"{recipe}, {title}" for recipe in ("original", "strong")])
            for title in (
                f"{SHORT} epochs",
                f"{LONG} epochs",
                "10 % of the images",
                "20 % wrong labels",
            )
        ),
        Comparison("Recall of a class cut to 5 % of its images", "rare_recall", rare),
        Comparison("Images/s", "images_per_s", [n for n in names if n.startswith("speed")]),
        Comparison("Number of ranks", test, [strong, *ranks]),
        Comparison("PyTorch", test, [strong, *(n for n in names if n.startswith("PyTorch"))]),
        Comparison("Ablation", test, [strong, *map(without, parts_of_strong())]),
    ]


def candidate_groups(files: Sequence[Path], kind: str) -> dict[str, Group]:
    """Runs to choose settings by their validation accuracy. Raises ConfigError."""
    groups = {}
    for file in files:
        settings = read_settings(str(file))
        recipe = settings.pop("recipe", "original")
        settings = {**read_recipe(recipe), "epochs": SHORT, **settings}
        groups[f"candidate {file.stem}, {kind}"] = Group(settings, 1, data=kind)
    return groups


def runs_of(
    groups: Mapping[str, Group], epochs: int = 0, steps: int = 0, num_seeds: int = 0
) -> list[Run]:
    """All runs, first those with the first seed: so that every table has something early.

    epochs, steps, num_seeds: instead of those of the groups, if not 0. Raises ConfigError for
    settings that dist_ft.train would reject.
    """
    shorter = {k: v for k, v in (("epochs", epochs), ("max_steps", steps)) if v}
    runs = []
    for name, group in groups.items():
        settings = {**group.settings, **shorter}
        if group.program != PYTORCH:
            Config(**settings)
        group = replace(group, settings=settings)
        runs += [Run(name, group, seed) for seed in range(num_seeds or group.num_seeds)]
    return sorted(runs, key=lambda run: run.seed)
