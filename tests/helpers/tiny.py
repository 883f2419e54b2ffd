"""Overrides by which a training takes seconds."""

NETWORK = ["pretrained.vgg19=random", "backbone.blocks=[1,1,1,1]", "backbone.features=8"]
CROPS = ["task.crop=32", "task.reference_crop=32"]
# Nothing beside the run itself: no dashboard, no other process, no other device.
ALONE = ["wandb.mode=disabled", "loader.workers=0", "runtime.device=cpu", "runtime.threads=1"]
# A whole training, for what comes after one.
TWO_STEPS = [
    *NETWORK,
    *CROPS,
    "trainer.batch_size=2",
    "trainer.pictures=0",
    "stages.reconstruction.epochs=null",
    "stages.reconstruction.steps=2",
]
