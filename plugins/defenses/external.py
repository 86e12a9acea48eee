"""A mark that was made elsewhere: the marked model's weights and its trigger set, as files."""

from __future__ import annotations

from harness import Context, Dataset, Defense, Key, Marked, Task, modelfiles, option


class External(Defense):
    """A given model, nothing of which is trained, and a given trigger set as its key.

    A trial is one trigger, and matches when it is answered with the trigger's label. There is one victim, so that a
    plan has it on the first of its seeds alone: what a board says is about this model, and not about the scheme that
    marked it. Unmarked models are trained by the data set's recipe. Where that is not the recipe of the given model,
    or its training data are other ones, see the other innocent models.
    """

    name = "external"
    one_model = True
    arms = ()
    former = (("triggers", "trigger_set"),)

    weights: str = option("", doc="Weights file of the marked model: safetensors, or a state dict of torch.save.")
    trigger_set: str = option(
        "",
        doc="Triggers (also written triggers=): an npz file of inputs x and labels y, or a folder of images with a "
        "CSV of file,label.",
    )
    architecture: str = option("", doc="Architecture of the marked model; empty is the data set's own.")

    @property
    def architecture_built(self) -> str:
        return self.architecture

    def named_files(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.weights, self.trigger_set)))

    def skip(self, dataset: Dataset) -> str | None:
        if not (self.weights and self.trigger_set):
            return "it needs files: external[weights=marked.pt,triggers=triggers.npz]"
        modelfiles.read_triggers(self.trigger_set, dataset.input_shape, dataset.classes, dataset.value_range)
        return None

    def embed(self, task: Task, ctx: Context) -> Marked:
        recipe = task.dataset
        net = ctx.build()
        modelfiles.fill(net, self.weights)
        triggers = modelfiles.read_triggers(self.trigger_set, recipe.input_shape, recipe.classes, recipe.value_range)
        return Marked(net, Key({"trigger": modelfiles.as_split(triggers, task.train.x)}))
