"""Evaluates a trained network on labeled images: for `dist_ft.evaluate` and the report."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import ContextManager, NamedTuple, Sequence

from dist_ft import files
from dist_ft.data import file_list, image_folder, recordio, sources
from dist_ft.data.dataset import Dataset, DatasetError, Split
from dist_ft.data.rank_batches import RankBatches
from dist_ft.distributed.world import World
from dist_ft.errors import UserError
from dist_ft.evaluation.assessment import Assessment
from dist_ft.evaluation.evaluator import Network, evaluate
from dist_ft.evaluation.predictions import Predictions
from dist_ft.inference.heatmap import Heatmaps
from dist_ft.inference.inputs import PREFETCH_MB
from dist_ft.inference.trained_model import TrainedModel
from dist_ft.recipe_settings import DataSettings
from dist_ft.training.run_spec import describe_split


def labeled_split(data: str, name: str, classes: Sequence[str]) -> Split:
    """The images of a split of a data set, or of DATA/CLASS/*, labeled by position in `classes`.

    name: 'test', 'val' or 'train'; classes: the checkpoint's, of which the data may have a part.
    Raises DatasetError if there are no images, or for a class that the checkpoint does not have.
    """
    root = Path(data)
    if recordio.has_archives(root):
        dataset = image_folder.scan(data)
        names = list(dataset.classes)
        if name not in dataset.splits:
            raise DatasetError(f"{root}: has no {name} images")
        split = dataset.splits[name]
    else:
        if not root.is_dir():
            raise DatasetError(f"{root}: no such folder")
        folder = image_folder.find_split(root, name)
        if folder and image_folder.find_classes(folder):  # else it may be a class named 'valid'
            root = folder
        found = image_folder.find_classes(root)
        names, split = list(found), image_folder.list_images(root, found)
    if not split.paths:
        raise DatasetError(f"{root}: no class folder with images in it")
    return _relabeled(split, names, classes)


def _relabeled(split: Split, names: Sequence[str], classes: Sequence[str]) -> Split:
    """With labels that are positions in `classes` instead of `names`."""
    unknown = sorted(set(names) - set(classes))
    if unknown:
        raise DatasetError(
            f"{split.root}: the checkpoint has no class {', '.join(unknown)}; its classes are"
            f" {', '.join(classes)}"
        )
    return replace(split, labels=tuple(classes.index(names[label]) for label in split.labels))


def split_of_run(model: TrainedModel, data: str, name: str, listed: Path | None = None) -> Split:
    """Like `labeled_split`. If the run took validation images from train, they are its 'val'.

    listed: a list of files below `data`, which is read instead; see data/file_list.py.
    """
    if listed:
        return file_list.read_split(Path(data), listed, model.classes)
    if name != "val" or not model.val_share:
        return labeled_split(data, name, model.classes)
    settings = DataSettings(data=data, val_share=model.val_share, seed=model.seed)
    dataset = sources.read_divided(settings)
    return _relabeled(dataset.selection, dataset.classes, model.classes)


def batches_of(
    model: TrainedModel, split: Split, world: World, num_workers: int
) -> ContextManager[RankBatches]:
    """This rank's batches; `test()` has the images of the split as the network expects them."""
    dataset = Dataset(model.classes, split, split)
    return closing(
        RankBatches(dataset, model.spec, 0, world.rank, world.size, num_workers, PREFETCH_MB)
    )


def assess(
    net: Network,
    model: TrainedModel,
    split: Split,
    world: World,
    num_workers: int,
    tta: str = "none",
) -> Assessment:
    """Evaluates the network on a split; all ranks call it and get the same result.

    net: `model.network(world)`; num_workers: decoding threads; tta: the network's test-time
    augmentation, to be noted in the results.
    """
    predictions, unreadable = Predictions(), {}
    with batches_of(model, split, world, num_workers) as batches:
        scores = evaluate(net, batches.test(), len(model.classes), world, predictions)
        for part in world.gather(dict(batches.loaders["test"].unreadable)):
            unreadable.update(part)
    assert scores.num_images == len(predictions) == len(split) - len(unreadable)
    path, root = str(model.path), str(split.root)
    return Assessment(path, model.step, root, model.classes, scores, predictions, unreadable, tta)


class SplitPredictions(NamedTuple):
    """Predictions for the readable images of a split."""

    classes: tuple[str, ...]
    split: Split
    predictions: Predictions
    same_images: bool  # as the run was evaluated on
    heatmaps: Heatmaps | None = None  # of some mistakes


def predict_selection_images(
    model: TrainedModel, dataset: Dataset, world: World, num_workers: int
) -> SplitPredictions:
    """Runs the network on the images that select the best epoch.

    Raises UserError if the classes are not the checkpoint's.
    """
    split = dataset.selection
    if dataset.classes != model.classes:
        raise UserError(
            f"{split.root}: its classes are not those of the run; name its images with --data DIR"
        )
    assessment = assess(model.network(world), model, split, world, num_workers)
    is_same = model.selection_images == describe_split(split)
    return SplitPredictions(dataset.classes, split, assessment.predictions, is_same)


def write_confusion(assessment: Assessment, png: Path | None) -> None:
    """Draws the confusion matrix, if a path is given. Raises UserError if it cannot be written."""
    if png:
        from dist_ft.tracking import figures  # loads matplotlib

        figure = figures.confusion(assessment.scores.confusion, assessment.classes)
        with files.output_file(png, "--png") as temporary:
            figure.savefig(str(temporary), format="png", dpi=120)
