"""Reads the data set that the settings describe: a folder, RecordIO archives or file lists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dist_ft.data import file_list, image_folder, validation_share
from dist_ft.data.dataset import Dataset
from dist_ft.recipe_settings import DataSettings


def read(settings: DataSettings) -> Dataset:
    """The data set, before validation images are taken from train. Raises DatasetError."""
    named = {"train": settings.train_list, "val": settings.val_list, "test": settings.test_list}
    lists = {split: Path(file) for split, file in named.items() if file}
    share = (settings.val_share, settings.seed) if settings.val_share else ()
    if lists:
        dataset = file_list.read(Path(settings.data), lists)
    else:
        dataset = image_folder.scan(settings.data, divides_train=bool(share))
    return replace(dataset, division=" ".join(map(str, (*lists.values(), *share))))


def choose_validation(settings: DataSettings, dataset: Dataset) -> list[int]:
    """The training images that --val-share makes validation images; see `validation_share`."""
    if not settings.val_share:
        return []
    return validation_share.choose(
        dataset.train, settings.val_share, settings.seed, settings.cache_folder
    )


def read_divided(settings: DataSettings) -> Dataset:
    """The data set as a run has it, in one process. Raises DatasetError."""
    dataset = read(settings)
    return validation_share.take(dataset, choose_validation(settings, dataset))
